/**
 * The one error type of the library. Every error that a caller can cause or has to tell apart has a stable
 * `code` of its own; the message names the thing, the cause and what to do, in one line.
 */

/** Exit statuses that `docker run` documents for its own failures, and that `clearvm run` keeps. */
export const EXIT_ENGINE = 125;
/** The command was found and cannot be executed. */
export const EXIT_CANNOT_EXECUTE = 126;
/** The command was not found. */
export const EXIT_NOT_FOUND = 127;

export interface ClearVMErrorOptions {
  /** What a command line that meets this error exits with; 125 where nothing else is said. */
  exitCode?: number;
  /** What was caught and led to this error. */
  cause?: unknown;
  /** The configuration field that is wrong, as a path ("cpus", "/process/args/0"). */
  field?: string;
  /** The last lines of the guest's kernel log, when the guest had begun to boot. */
  kernelLog?: string;
}

export class ClearVMError extends Error {
  override readonly name = 'ClearVMError';
  /** Stable and documented: ERR_ and a name in capitals. */
  readonly code: string;
  readonly exitCode: number;
  readonly field?: string;
  readonly kernelLog?: string;

  constructor(code: string, message: string, options: ClearVMErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.exitCode = options.exitCode ?? EXIT_ENGINE;
    if (options.field !== undefined) this.field = options.field;
    if (options.kernelLog !== undefined) this.kernelLog = options.kernelLog;
  }
}

/** The errno name ("ENOENT") of an error of Node's, or "" when it has none. */
export function errnoOf(error: unknown): string {
  if (error instanceof Error && 'code' in error && typeof error.code === 'string') {
    return error.code;
  }
  return '';
}

/** Whether an error of Node's says that the disk, or the user's share of it, is full. */
export function isDiskFull(error: unknown): boolean {
  return ['ENOSPC', 'EDQUOT'].includes(errnoOf(error));
}

/** The message of whatever was thrown; of a full disk, what to do. */
export function messageOf(error: unknown): string {
  if (isDiskFull(error)) return 'no space left on the disk; free some and try again';
  return error instanceof Error ? error.message : String(error);
}
