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
  /** A listening Unix stream socket at the path, for this user alone; nonblocking, close-on-exec. The path may be of any length. */
  listenUnix(path: string): number;
  /** A socket connected to that path; nonblocking, close-on-exec. */
  connectUnix(path: string): number;
  /** Sends up to eight descriptors along with the first of the bytes; returns how many bytes the socket has taken. */
  sendFds(socket: number, bytes: Uint8Array, fds: number[]): number;
  /** Puts a terminal into raw mode (cfmakeraw(3)); returns what `restoreTerminal` takes. */
  rawTerminal(fd: number): Buffer;
  restoreTerminal(fd: number, saved: Uint8Array): void;
  /** Puts /dev/null in a descriptor's place: whoever waits for its last holder need not wait for this process. */
  releaseFd(fd: number): void;
  /**
   * Locks a file, made (0600) where it is missing, for whoever holds the descriptor that is returned, by flock(2); -1 where
   * somebody else has it and `wait` is false. It blocks this thread while it waits.
   */
  lockFile(path: string, wait: boolean): number;
  /**
   * Appends whole lines to `<directory>/journal`, one process at a time; a file of `most` bytes or more becomes `journal.1` first. It
   * blocks this thread while somebody else writes.
   */
  appendToJournal(directory: string, lines: string, most: number): void;
  /** _exit(2): no handler runs, nothing is flushed. */
  exit(status: number): never;
  /**
   * Reads one end of a stream socket or pipe, which it owns from now on: `onData` gets what comes, and null at the end. Node's
   * own sockets do the same, but loading them takes longer than starting a VMM.
   */
  openChannel(fd: number, onData: (chunk: Buffer | null) => void): Channel;
  /**
   * Makes a container's directories: `run` and `data`, a symbolic link `owner` in each, `upper` (with the owner and mode of
   * `topLayer`) and `work` in `data`. One call, because ten into Node's fs cost a tenth of a forked start. What was made before
   * an error stays.
   */
  makeContainerPlaces(run: string, data: string, owner: string, topLayer: string): void;
  /** Writes a file, made with mode 0600 where it is missing. */
  writeFile(path: string, text: string): void;
  /** Makes an empty network namespace, and binds it to the file. */
  makeNetwork(path: string): void;
  /** Whether anything was mounted or unmounted since the open `/proc/self/mountinfo` was last asked about, or opened. */
  mountsChanged(mountinfo: number): boolean;
  /** Mounts a tmpfs with these options over the directory, with nosuid, nodev and noexec. */
  mountTmpfs(path: string, options: string): void;
  /**
   * A mount namespace of this host's mounts, and in it, at `place`, a container's root: a running VMM's own, or an overlay that
   * is mounted for it. Both descriptors are the caller's to close; with the namespace's last one it goes, and its mounts with it.
   */
  makeView(options: ViewOptions): { space: number; root: number };
  /**
   * openat2(2) with RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS: nothing outside of `root` is reached, whatever its links say. Close-on-exec.
   * The error's `errno` says why not.
   */
  openInRoot(root: number, path: string | Uint8Array, flags: number): number;
  /**
   * Becomes another program, with the same process id and the same standard streams; returns only if that fails. `file` is a path, `args` is
   * all of argv. The environment is `process.env`. Errors: ERR_EXEC.
   */
  execute(file: string, args: readonly string[]): void;
  /** Makes a Unix socket's file, for nobody to listen at yet: its path, as bytes, its permission bits and owner. */
  makeSocketFile(path: Uint8Array, mode: number, uid: number, gid: number): void;
  /** Tries the KVM device at `path`. Never throws for what is wrong with the device: that is the result. Blocks up to 3 s. */
  probeKvm(path: string): KvmProbe;
  /** Runs machine code in a VM inside this process, and blocks until it stops. For tests. */
  runPayload(options: PayloadOptions): PayloadResult;
}

export interface ViewOptions {
  /** An empty directory. */
  place: string;
  readOnly: boolean;
  /** Of a VMM that runs: its root, as it is. */
  vmm?: number;
  /** Otherwise: as the VMM mounts it (src/vm/config.ts); nobody else may have `state` in use meanwhile. */
  overlay?: {
    layers: string;
    lower: readonly string[];
    base: string;
    state: string;
    userXattrs?: boolean;
  };
  /** Mounted in the root where it has their targets. */
  mounts: readonly { source: string; target: string; readOnly: boolean }[];
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
  /** Puts the child into new mount, pid, ipc and uts namespaces. */
  namespaces: boolean;
  /** This process may end before the child does. */
  background?: boolean;
}

export interface Channel {
  /** Never blocks: what the kernel does not take is kept. After the end it does nothing. */
  write(bytes: Uint8Array): void;
  /** No `onData` until `resume`: what comes is left to wait where it is. Idempotent, both. */
  pause(): void;
  resume(): void;
  /** No `onData` after it; idempotent. */
  close(): void;
  /** Whether the open channel keeps this process alive, as with Node's handles: it does at first. */
  ref(): void;
  unref(): void;
}

export interface SpawnedVmm {
  readonly pid: number;
  /** Takes `background` back. */
  ref(): void;
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
