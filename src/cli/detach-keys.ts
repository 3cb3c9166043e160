/** The keys that let go of a container without ending it. */
import { ClearVMError } from '../errors.js';

export const DEFAULT_DETACH_KEYS = 'ctrl-p,ctrl-q';

/** The bytes of docker's notation: letters, or `ctrl-` and one of a-z @ [ \ ] ^ _, with commas between. Errors: ERR_DETACH_KEYS. */
export function parseDetachKeys(text: string): Buffer {
  const bytes = text.split(',').map((key) => {
    const control = /^ctrl-([a-z@[\\\]^_])$/i.exec(key)?.[1];
    if (control !== undefined) return control.toUpperCase().charCodeAt(0) - 0x40;
    if (/^[\x20-\x7e]$/.test(key)) return key.charCodeAt(0);
    throw new ClearVMError('ERR_DETACH_KEYS', `invalid detach keys (${text})`, { exitCode: 1 });
  });
  return Buffer.from(bytes);
}

/** Looks for the keys in what is typed. */
export class DetachFilter {
  readonly #keys: Buffer;
  /** The beginning of the keys, as far as it has come. */
  #held: number[] = [];

  constructor(keys: Buffer) {
    this.#keys = keys;
  }

  /** What of `typed` goes on to the container; undefined: all of the keys have come. What may be the beginning of them is held back. */
  push(typed: Buffer): Buffer | undefined {
    const out: number[] = [];
    for (const byte of typed) {
      this.#held.push(byte);
      while (this.#held.some((held, i) => held !== this.#keys[i])) {
        out.push(this.#held.shift() as number);
      }
      if (this.#held.length === this.#keys.length) return undefined;
    }
    return Buffer.from(out);
  }
}
