export { ImageError, type ImageErrorCode } from './errors.js';
export {
  familiarName,
  formatReference,
  isReference,
  parseReference,
  registryName,
  type Reference,
} from './reference.js';
export { ImageStore } from './store.js';
export type * from './types.js';
