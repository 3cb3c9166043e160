import { ClearVMError, errnoOf, isDiskFull, messageOf } from '../errors.js';

/** Every code that the image store fails with; each is one cause. */
export type ImageErrorCode =
  /** The text is no image reference, id or digest. */
  | 'ERR_IMAGE_REFERENCE'
  /** No image of that name or id in the store. */
  | 'ERR_IMAGE_NOT_FOUND'
  /** An id prefix that several images share. */
  | 'ERR_IMAGE_AMBIGUOUS'
  /** The image has several names, or a container uses it: removal needs `force`, or is refused. */
  | 'ERR_IMAGE_IN_USE'
  /** The source of a load or import cannot be opened. */
  | 'ERR_IMAGE_SOURCE'
  /** The source is neither a docker archive nor an OCI archive or layout, or is damaged. */
  | 'ERR_IMAGE_ARCHIVE_FORMAT'
  /** The source ends before its end. */
  | 'ERR_IMAGE_ARCHIVE_TRUNCATED'
  /** A file or directory name in an archive leads outside it. */
  | 'ERR_IMAGE_ARCHIVE_ESCAPE'
  /** The archive lacks a blob that its manifest names. */
  | 'ERR_IMAGE_BLOB_MISSING'
  /** Content does not have the digest, or the size, that it is announced with. */
  | 'ERR_IMAGE_DIGEST_MISMATCH'
  /** A manifest or index fails its schema. */
  | 'ERR_IMAGE_MANIFEST'
  /** The image config fails its schema, or does not fit the layers. */
  | 'ERR_IMAGE_CONFIG'
  /** A Dockerfile instruction given to `import` is not understood. */
  | 'ERR_IMAGE_CHANGE'
  /** No image for linux/amd64 in the source. */
  | 'ERR_IMAGE_PLATFORM'
  /** More layers than one overlay mount takes. */
  | 'ERR_IMAGE_TOO_MANY_LAYERS'
  /** A name, symbolic link or hard link in a layer leads outside the layer. */
  | 'ERR_LAYER_PATH_ESCAPE'
  /** The layer is not a tar archive, or of an unknown compression. */
  | 'ERR_LAYER_FORMAT'
  /** The layer cannot be unpacked as it is: tar's own message says why. */
  | 'ERR_LAYER_UNPACK'
  /** The mount namespace that layers are unpacked in cannot be made. */
  | 'ERR_LAYER_SANDBOX'
  /** A program that the store uses is not installed. */
  | 'ERR_IMAGE_TOOL_MISSING'
  /** The disk is full. */
  | 'ERR_IMAGE_NO_SPACE'
  /** The store's own files are damaged, of a newer version, or not accessible. */
  | 'ERR_IMAGE_STORE'
  /** The caller's AbortSignal fired. */
  | 'ERR_IMAGE_ABORTED'
  /** registries.json or docker's config.json is wrong, or cannot be read or written. */
  | 'ERR_REGISTRY_CONFIG'
  /** A credential helper fails, or is not installed. */
  | 'ERR_REGISTRY_CREDENTIALS'
  /** No connection, or one that broke or stalled more often than is tried again. */
  | 'ERR_REGISTRY_UNREACHABLE'
  /** The registry's certificate is not accepted. */
  | 'ERR_REGISTRY_TLS'
  /** The registry wants a login, or refuses the one it got. */
  | 'ERR_REGISTRY_UNAUTHORIZED'
  /** The registry refuses what was asked of it. */
  | 'ERR_REGISTRY_DENIED'
  /** The registry has no such repository, tag, manifest or blob. */
  | 'ERR_REGISTRY_NOT_FOUND'
  /** Too many requests; again and again. */
  | 'ERR_REGISTRY_RATE_LIMIT'
  /** The registry fails, or answers what the distribution specification does not know. */
  | 'ERR_REGISTRY_RESPONSE';

/** What every failure of the image store is reported as. The message names the thing, the cause and what to do. */
export class ImageError extends ClearVMError {
  declare readonly code: ImageErrorCode;

  constructor(
    code: ImageErrorCode,
    message: string,
    options: { cause?: unknown; field?: string } = {},
  ) {
    super(code, message, options);
  }
}

/**
 * Turns whatever was caught into an ImageError: one that is one already stays, a full disk and an abort keep
 * their own codes, everything else becomes `code` with `context` before the cause.
 */
export function toImageError(error: unknown, code: ImageErrorCode, context: string): ImageError {
  if (error instanceof ImageError) return error;
  const errno = errnoOf(error);
  if (isDiskFull(error)) code = 'ERR_IMAGE_NO_SPACE';
  if (errno === 'ABORT_ERR') {
    return new ImageError('ERR_IMAGE_ABORTED', `${context}: aborted`, { cause: error });
  }
  return new ImageError(code, `${context}: ${messageOf(error)}`, { cause: error });
}
