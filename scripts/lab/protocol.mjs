// The frames between a lab's init and its caller; init/lab.h is the other end and describes them.

export const SETUP = 1;
export const EXEC = 2;
export const STDIN = 3;
export const SIGNAL = 4;
export const HEARTBEAT = 5;

export const READY = 16;
export const STDOUT = 17;
export const STDERR = 18;
export const EXIT = 19;
export const STDIN_ACK = 20;
export const FAILED = 21;

/** The largest frame, without its length field, that init takes. */
export const MAX_FRAME = 1 << 20;
/** How many bytes of a command's stdin may be under way without having been acknowledged. */
export const STDIN_WINDOW = 1 << 20;

/**
 * @param {number} id of the command, 0 for the lab
 * @param {number} type
 * @param {Buffer} [payload]
 * @returns {Buffer}
 */
export function encodeFrame(id, type, payload = Buffer.alloc(0)) {
  const header = Buffer.alloc(9);
  header.writeUInt32LE(payload.length + 5, 0);
  header.writeUInt32LE(id, 4);
  header.writeUInt8(type, 8);
  return Buffer.concat([header, payload]);
}

/**
 * @param {string[]} strings without NULs
 * @returns {Buffer} each terminated by a NUL
 */
export function encodeStrings(strings) {
  return Buffer.from(strings.map((text) => `${text}\0`).join(''));
}

/**
 * Encodes the request to run a command.
 *
 * @param {number} id
 * @param {string[]} argv
 * @param {{cwd: string, env: Record<string, string>, stdin: boolean}} options
 * @returns {Buffer} a frame
 */
export function encodeExec(id, argv, { cwd, env, stdin }) {
  const flags = stdin ? 'i' : '';
  const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`);
  return encodeFrame(
    id,
    EXEC,
    encodeStrings([cwd, flags, String(argv.length), ...argv, ...variables]),
  );
}

/** Cuts a byte stream into frames. */
export class FrameReader {
  #chunks = [];
  #size = 0;

  /**
   * @param {Buffer} bytes the next piece of the stream
   * @returns {Generator<{id: number, type: number, payload: Buffer}>} the frames that are complete by now
   */
  *read(bytes) {
    this.#chunks.push(bytes);
    this.#size += bytes.length;
    if (this.#size < 9) return;
    const buffer = this.#chunks.length === 1 ? bytes : Buffer.concat(this.#chunks);
    let at = 0;
    while (buffer.length - at >= 9) {
      const end = at + 4 + buffer.readUInt32LE(at);
      if (end > buffer.length) break;
      const id = buffer.readUInt32LE(at + 4);
      yield { id, type: buffer[at + 8], payload: buffer.subarray(at + 9, end) };
      at = end;
    }
    this.#chunks = [buffer.subarray(at)];
    this.#size = buffer.length - at;
  }
}
