export { ImageError, type ImageErrorCode } from './errors.js';
export { parseReference, familiarName, type Reference } from './reference.js';
export type * from './types.js';
