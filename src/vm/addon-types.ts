/**
 * The shape of build/Release/clearvm_addon.node. The functions check the types of their arguments and no more:
 * callers validate. A failure throws an {@link AddonError}.
 */
export interface Addon {
  /**
   * Starts a process without copying this one's page tables, and calls `onExit` once when it has ended: with a status, or with
   * the number of the signal that killed it.
   */
  spawnVmm(
    options: SpawnOptions,
    onExit: (code: number | null, signal: number | null) => void,
  ): SpawnedVmm;
  /** A connected pair of Unix stream sockets, close-on-exec. */
  socketPair(): [number, number];
  /** A pipe, close-on-exec: its read end and its write end. */
  pipe(): [number, number];
  closeFd(fd: number): void;
  /** Tries the KVM device at `path`. Never throws for what is wrong with the device: that is the result. Blocks up to 3 s. */
  probeKvm(path: string): KvmProbe;
  /** Runs machine code in a VM inside this process, and blocks until it stops. For tests. */
  runPayload(options: PayloadOptions): PayloadResult;
}

export interface AddonError extends Error {
  /** Stable: `ERR_…`. */
  code: string;
  /** Positive, as in errno(3); absent where no system call failed. */
  errno?: number;
  syscall?: string;
}

export interface SpawnOptions {
  /** The executable's path. */
  file: string;
  /** argv, without argv[0]. */
  args: string[];
  /** The child's fd i is a copy of fds[i]; -1 stands for /dev/null. They stay the caller's to close. */
  fds: number[];
  /** Puts the child into new mount, pid, network, ipc and uts namespaces. */
  namespaces: boolean;
}

export interface SpawnedVmm {
  readonly pid: number;
  kill(signal: number): void;
}

/** `hardware`: a real (or faithfully emulated) KVM. `software`: answers, but is no processor. `unusable`: no VM can be made. */
export type KvmVerdict = 'hardware' | 'software' | 'unusable';

export interface KvmProbe {
  verdict: KvmVerdict;
  /** One sentence: why this verdict. */
  reason: string;
  /** For `unusable`: what failed. */
  error?: { code: string; message: string; errno?: number; syscall?: string };
  /** KVM_GET_API_VERSION; 0 when the device did not open. */
  apiVersion: number;
  capabilities: { name: string; value: number; required: boolean }[];
  /** How long KVM_CREATE_VM took. */
  createVmMs: number;
  /** The counted loop in guest ring 0; 0 when it did not finish. */
  ring0InstructionsPerSecond: number;
  /** The same loop natively. */
  hostInstructionsPerSecond: number;
  checks: { name: string; passed: boolean; detail: string }[];
}

export interface PayloadOptions {
  /** Machine code, copied to `loadAddress`, where the first vCPU starts. */
  code: Uint8Array;
  /** `real`: 16-bit, at 0:loadAddress. `long`: 64-bit ring 0, the first GiB mapped to itself, a GDT with code 0x10 and data 0x18. */
  mode: 'real' | 'long';
  /** Bytes of guest RAM, a multiple of 4096; 2 MiB unless given. */
  memory?: number;
  /** Where the code goes; 0x8000 unless given. Page tables and GDT of mode `long` lie below 0x6000. */
  loadAddress?: number;
  /** Stops after this many exits (1000). */
  maxExits?: number;
  /** Stops after this much time (2000). */
  timeoutMs?: number;
  /** The interrupt controller: none unless given. A split one has 24 pins, and its IOAPIC at 0xfec00000. */
  irqchip?: 'none' | 'full' | 'split';
  /** The guest's CPUID: `policy` (as ClearVM's VMs get it, for one vCPU; the default) or `none`. */
  cpuid?: 'policy' | 'none';
  /** What port and MMIO reads get, in order, as little-endian values; 0 when they run out. */
  reads?: number[];
  /** Writes with this address (bytes) and length signal an eventfd, counted in the result, instead of an exit. */
  ioEventFd?: { address: number; length: number };
  /** Raises these lines of a split irqchip, by irqfd, each time the payload writes to port 0xf4 (the value is the line). */
  irqFds?: number[];
  /** Guest memory to hand back: address and length in bytes. */
  dump?: { address: number; length: number };
}

export type PayloadExit =
  | { kind: 'port-in' | 'port-out'; port: number; size: number; value: number }
  | { kind: 'mmio-read' | 'mmio-write'; address: number; size: number; value: number }
  | { kind: 'halt' | 'shutdown' | 'timeout' | 'exit-limit' }
  | { kind: 'internal-error'; suberror: number; description: string }
  | { kind: 'other'; reason: number; description: string };

export interface PayloadResult {
  /** In order; the last one is why the run stopped. */
  exits: PayloadExit[];
  /** rax … r15, rip, rflags at the end, as 64-bit values. */
  registers: Record<string, bigint>;
  /** Signals of `ioEventFd`. */
  ioEventFdCount: number;
  dump?: Buffer;
}
