import { ImageError, type ImageErrorCode } from '../errors.js';

/** What a registry's failure is reported as: an ImageError that knows whether another try may help. */
export class RegistryError extends ImageError {
  /** Another try may succeed. */
  readonly transient: boolean;
  /** The registry asks for this long a pause, ms. */
  readonly retryAfter: number | undefined;

  constructor(
    code: ImageErrorCode,
    message: string,
    options: { cause?: unknown; transient?: boolean; retryAfter?: number | undefined } = {},
  ) {
    super(code, message, options.cause === undefined ? {} : { cause: options.cause });
    this.transient = options.transient === true;
    this.retryAfter = options.retryAfter;
  }
}

export function isTransient(error: unknown): boolean {
  return error instanceof RegistryError && error.transient;
}
