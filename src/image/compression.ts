import { Readable, type Duplex } from 'node:stream';
import zlib from 'node:zlib';

import { execa } from 'execa';

import { toolEnvironment } from './tools.js';

export type Compression = 'none' | 'gzip' | 'zstd' | 'xz' | 'bzip2';

const MAGIC: [Compression, number[]][] = [
  ['gzip', [0x1f, 0x8b]],
  ['zstd', [0x28, 0xb5, 0x2f, 0xfd]],
  ['xz', [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]],
  ['bzip2', [0x42, 0x5a, 0x68]],
];
const LONGEST_MAGIC = 6;
const CHUNK = 1 << 20;

/** What the first bytes of a file say; everything unknown is taken for a plain tar. */
export function detectCompression(start: Uint8Array): Compression {
  for (const [name, magic] of MAGIC) {
    if (magic.every((byte, i) => start[i] === byte)) return name;
  }
  return 'none';
}

/** Finds out how a stream is compressed, and returns a stream that still has its first bytes. */
export async function peekCompression(
  source: Readable,
): Promise<{ compression: Compression; stream: Readable }> {
  const iterator = source[Symbol.asyncIterator]() as AsyncIterator<Buffer | string>;
  const first: Buffer[] = [];
  let length = 0;
  let ended = false;
  while (length < LONGEST_MAGIC && !ended) {
    const next = await iterator.next();
    ended = next.done === true;
    if (!ended) {
      const chunk = Buffer.from(next.value);
      first.push(chunk);
      length += chunk.length;
    }
  }
  async function* rest(): AsyncGenerator<Buffer | string> {
    try {
      yield* first;
      while (!ended) {
        const next = await iterator.next();
        ended = next.done === true;
        if (!ended) yield next.value;
      }
    } finally {
      await iterator.return?.();
    }
  }
  return {
    compression: detectCompression(Buffer.concat(first)),
    stream: Readable.from(rest(), { objectMode: false, highWaterMark: CHUNK }),
  };
}

/**
 * A stream that takes compressed bytes and gives plain ones, or undefined where there is nothing to do. gzip is
 * zlib's, on a thread of Node's pool; the others are programs, because Node 20 has none of them built in.
 */
export function decompressor(compression: Compression, signal?: AbortSignal): Duplex | undefined {
  switch (compression) {
    case 'none':
      return undefined;
    case 'gzip':
      return zlib.createGunzip({ chunkSize: CHUNK });
    default:
      return execa(compression, ['-d', '-c'], {
        extendEnv: false,
        env: toolEnvironment(),
        buffer: { stdout: false, stderr: true },
        encoding: 'buffer',
        ...(signal ? { cancelSignal: signal } : {}),
      }).duplex();
  }
}

/** How a decompressor's failure is to be understood. */
export function classifyDecompression(error: unknown): 'truncated' | 'damaged' | undefined {
  if (!(error instanceof Error)) return undefined;
  const code = 'code' in error ? error.code : undefined;
  if (code === 'Z_BUF_ERROR') return 'truncated';
  if (typeof code === 'string' && code.startsWith('Z_')) return 'damaged';
  const stderr = 'stderr' in error ? error.stderr : undefined;
  if (!(stderr instanceof Uint8Array) && typeof stderr !== 'string') return undefined;
  const complaint = Buffer.from(stderr).toString();
  if (/premature end|unexpected end|ends unexpectedly/i.test(complaint)) return 'truncated';
  return complaint ? 'damaged' : undefined;
}
