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
export { isHealthy, type Finding } from './engine/doctor.js';
export type { RunOptions } from './engine/options.js';
export type { VolumeOptions } from './engine/volumes.js';
export { ImageError, ImageStore } from './image/index.js';
export type {
  ImageConfig,
  ImageDetails,
  ImageErrorCode,
  ImageProgress,
  ImageRunConfig,
  ImageSource,
  ImageSummary,
  ImportOptions,
  LoadOptions,
  ProgressListener,
  RemovedImages,
  RemoveOptions,
} from './image/index.js';
export type { Stdio } from './vm/stdio.js';
export { TIMELINE_POINTS, type TimelinePoint, type Timing } from './vm/timings.js';
export type { ExitStatus } from './vm/vmm.js';
