/** ClearVM as a library. */
export { ClearVMError, type ClearVMErrorOptions } from './errors.js';
export {
  DEFAULT_CPUS,
  DEFAULT_MEMORY,
  DEFAULT_ROOT,
  DEFAULT_RUNTIME_DIRECTORY,
  Engine,
  type EngineOptions,
} from './engine/engine.js';
export { RunningContainer, type ContainerStreams } from './engine/container.js';
export { ExecProcess, type ExecOptions, type TerminalSize } from './engine/exec.js';
export { Attachment, type AttachOptions } from './engine/attachment.js';
export type { ContainerSummary, ListOptions } from './engine/list.js';
export type { FilterTest } from './engine/filters.js';
export type { Pruned } from './engine/prune.js';
export type { LogEntry, LogOptions } from './engine/logs.js';
export {
  Container,
  type RemoveContainerOptions,
  type StopOptions,
  type UpdateOptions,
} from './engine/managed.js';
export type { EngineEvent, EventOptions, EventType } from './engine/events.js';
export type { CommitContainerOptions } from './engine/files/archive.js';
export type { FileChange } from './engine/files/changes.js';
export type { CopyOptions } from './engine/files/copy.js';
export type { Readiness, WaitForOptions } from './engine/wait-for.js';
export type {
  ContainerHealth,
  ContainerRecord,
  ContainerState,
  ContainerStatus,
  HealthConfig,
  LogConfig,
  MountRecord,
  RestartPolicy,
  RestartPolicyName,
} from './engine/record.js';
export { isHealthy } from './engine/doctor.js';
export type { Finding } from './engine/finding.js';
export type {
  AbortSource,
  HealthOptions,
  PullPolicy,
  PullReport,
  PrepareOptions,
  RunOptions,
} from './engine/options.js';
export {
  cpuPercent,
  type ContainerProcessInfo,
  type ContainerSample,
} from './engine/running-commands.js';
export type { ContainerUsage, DiskUsage, VolumeUsage } from './engine/usage.js';
export { SnapshotStore, type CreateSnapshotOptions, type ForkOptions } from './engine/snapshots.js';
export type { FileChecksum, Snapshot, SocketFile } from './engine/snapshot-record.js';
export {
  VolumeStore,
  type CreateVolumeOptions,
  type FillFrom,
  type NamedVolume,
} from './engine/volume-store.js';
export type { VolumeOptions } from './engine/volumes.js';
export { ImageError, ImageStore } from './image/index.js';
export type {
  CommitOptions,
  Descriptor,
  HistoryEntry,
  ImageConfig,
  ImageDetails,
  ImageErrorCode,
  ImageEvent,
  ImageManifest,
  ImageProgress,
  ImageRunConfig,
  ImageSource,
  ImageStoreOptions,
  ImageSummary,
  ImageUsage,
  ImportOptions,
  LoadOptions,
  LoginOptions,
  Platform,
  ProgressListener,
  PruneOptions,
  PulledImage,
  PushedImage,
  RegistryOptions,
  RemovedImages,
  RemoveOptions,
  ResolvedImage,
  ResolvedLayer,
  SaveOptions,
} from './image/index.js';
export type { GuestFile, ShareConfig, VmConfig } from './vm/config.js';
export type { CapabilitySet, OciMount, OciSpec } from './vm/spec.js';
export type { Stdio } from './vm/stdio.js';
export { TIMELINE_POINTS, type TimelinePoint, type Timing } from './vm/timings.js';
export { enterUserNamespace } from './vm/user-namespace.js';
export type { ExitStatus, StartedFrom } from './vm/vmm.js';
