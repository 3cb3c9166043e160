/** Requests on one of a VMM's sockets, and their replies. */
import { ClearVMError } from '../errors.js';

/** Errno values that a VMM refuses requests with, as codes. */
const REFUSALS: Readonly<Record<number, string>> = {
  11: 'ERR_VMM_BUSY', // EAGAIN
  16: 'ERR_CONTAINER_PAUSED', // EBUSY
  28: 'ERR_NO_SPACE', // ENOSPC
  95: 'ERR_SNAPSHOT_FILES', // EOPNOTSUPP
  114: 'ERR_ALREADY', // EALREADY
};

interface Pending {
  resolve: (result: Buffer) => void;
  reject: (error: Error) => void;
}

export class Requests {
  readonly #pending = new Map<number, Pending>();
  #last = 0;

  /** A number that no request under way has. */
  next(): number {
    this.#last = this.#last >= 0xffff_ffff ? 1 : this.#last + 1;
    return this.#last;
  }

  /** The result of that request. Errors: ERR_VMM_REQUEST and REFUSALS (refused), and what `fail` is given. */
  result(number: number): Promise<Buffer> {
    return new Promise((resolve, reject) => this.#pending.set(number, { resolve, reject }));
  }

  /** Takes a REPLY. */
  settle(number: number, payload: Buffer): void {
    const pending = this.#pending.get(number);
    if (!pending || payload.length < 4) return;
    this.#pending.delete(number);
    const errno = payload.readUInt32LE(0);
    const rest = payload.subarray(4);
    if (errno === 0) pending.resolve(rest);
    else pending.reject(refusalError(errno, rest));
  }

  /** Ends all requests under way with an error. */
  fail(error: Error): void {
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
  }
}

/** Why a VMM has refused a request. */
export function refusalError(errno: number, text: Buffer): ClearVMError {
  return new ClearVMError(
    REFUSALS[errno] ?? 'ERR_VMM_REQUEST',
    text.toString('utf8') || `the VMM refused: errno ${errno}`,
  );
}
