/** The result of a benchmark: docs/compatibility.md has its form, schemas/bench-report.schema.json checks it. */
import type { Kind, Summary } from '../types.js';

export const REPORT_VERSION = 1;

export interface Failure {
  kind: Kind;
  runtime: string;
  message: string;
}

export interface RuntimeEntry {
  id: string;
  label: string;
  kind: 'container' | 'vm';
  version?: string;
  /** Why it is not among those measured. */
  missing?: string;
}

export interface HostDescription {
  cpu: string;
  cpus: number;
  memoryMiB: number;
  kernel: string;
  kvm: string;
  node: string;
  clearvm: string;
}

/** Milliseconds from the request to the workload's first line, and the steps of the timeline on the way. */
export interface BootResult {
  runtime: string;
  total: Summary;
  /** From the point before, by the names of `clearvm run --timings`. */
  intervals: { point: string; ms: Summary }[];
}

/** Proportional set sizes of idle containers, in MiB. */
export interface MemoryResult {
  runtime: string;
  /** Of each VM; what a container's limit is does not matter. */
  vmMiB: number;
  containers: number;
  pssMiB: number;
  pssEachMiB: number;
}

export interface DensityResult {
  runtime: string;
  started: number;
  stoppedBy: 'count' | 'memory' | 'failure';
  points: { containers: number; startMs: number; pssMiB: number; availableMiB: number }[];
}

export interface IoResult {
  runtime: string;
  where: 'root' | 'volume';
  figure: string;
  /** Bytes, or files. */
  amount: number;
  ms: Summary;
}

export interface CpuResult {
  runtime: string;
  rounds: number;
  ms: Summary;
  /** Against the same loop on the host. */
  slowdown: number;
}

export interface IsolationResult {
  runtime: string;
  victim: 'cpu' | 'io';
  neighbour: string;
  ms: Summary;
  /** Against the same victim alone. */
  slowdown: number;
}

export interface Report {
  format: 'clearvm-bench';
  version: typeof REPORT_VERSION;
  title: string;
  /** RFC 3339. */
  created: string;
  /** What repeats it. */
  command: string[];
  host: HostDescription;
  settings: { runs: number; workRuns: number; warmup: number; memoryMiB: number; count: number };
  runtimes: RuntimeEntry[];
  /** Bytes on the disk. */
  sizes: { name: string; bytes: number }[];
  boot?: BootResult[];
  memory?: MemoryResult[];
  density?: DensityResult[];
  io?: IoResult[];
  cpu?: CpuResult[];
  isolation?: IsolationResult[];
  /** Kinds that a runtime cannot do, and why. */
  skipped: Failure[];
  failures: Failure[];
}
