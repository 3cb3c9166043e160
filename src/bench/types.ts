/** What the parts of the benchmark share. */
import type { Timing } from '../vm/timings.js';

export const KINDS = ['boot', 'memory', 'density', 'io', 'cpu', 'isolation'] as const;
export type Kind = (typeof KINDS)[number];

/** What a runtime is asked to run: the words of rootfs/bench.c. */
export interface Workload {
  words: readonly string[];
  /** Guest memory, or the container's limit. */
  memoryMiB: number;
  /** A directory of the host that is to be at /volume. */
  volume?: string;
}

/** A workload that has been started. */
export interface Instance {
  /** Milliseconds from the request to the workload's first line; rejects if there is none. */
  readonly ready: Promise<number>;
  /** Everything that it has printed, when it is over and removed. Rejects if it failed, with what it said. */
  readonly ended: Promise<string>;
  /** Milliseconds from the request until nothing is left; after `ended`. */
  readonly goneMs: number;
  /** Process ids of all that runs for it on the host, daemons that it shares with others apart. */
  pids(): Promise<number[]>;
  /** The points of the timeline, where the runtime knows them. */
  timings(): Timing[];
  /** Ends and removes it, whatever it does; resolves when it is gone. */
  stop(): Promise<void>;
}

/** A way to run a workload. */
export interface Runtime {
  readonly id: string;
  readonly label: string;
  readonly kind: 'host' | 'container' | 'vm';
  /** Whether its memory is a size that it has, so that it can be measured against it. */
  readonly hasMemorySize: boolean;
  /** Its version. Rejects with why it cannot be used here. */
  detect(): Promise<string>;
  /** Makes what all starts share: images, templates, bundles. */
  prepare(workloads: readonly Workload[]): Promise<void>;
  /** Why it cannot run a workload, or undefined. */
  refuses(workload: Workload): string | undefined;
  /** `signal` ends it, before and after this has returned. */
  start(workload: Workload, signal: AbortSignal): Promise<Instance>;
  /** Removes what `prepare` made outside the benchmark's directory. */
  close(): Promise<void>;
}

/** Where the benchmark keeps things while it runs, and what it runs. */
export interface Place {
  /** Removed at the end. */
  directory: string;
  /** The same, in memory. */
  runtimeDirectory: string;
  /** The static program, and the initramfs whose init it is. */
  program: string;
  initramfs: string;
  /** The guest kernel. */
  kernel: string;
  /** A tar archive of a root file system with the program as /bench, and that file system. */
  rootArchive: string;
  rootDirectory: string;
  /** A kernel with a BIOS' devices, for the VMs that need one; a distribution's initrd to go with it. */
  distributionKernel?: string | undefined;
  distributionInitrd?: string | undefined;
  /** An uncompressed kernel with a serial console, for Firecracker. */
  firecrackerKernel?: string | undefined;
}

export interface Summary {
  runs: number;
  median: number;
  p99: number;
  min: number;
  max: number;
}
