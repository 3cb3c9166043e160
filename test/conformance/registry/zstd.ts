import { execFileSync } from 'node:child_process';

/** Node 20 has none of its own. */
export function zstdCompressSync(bytes: Buffer): Buffer {
  return execFileSync('zstd', ['-q', '-c'], { input: bytes, maxBuffer: 1 << 30 });
}
