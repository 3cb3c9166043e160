import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Assembles a payload (Intel syntax, 64-bit unless it says `.code16`) that will lie at `origin`. Needs binutils. */
export function assemble(source: string, origin = 0x8000): Buffer {
  const directory = mkdtempSync(join(tmpdir(), 'clearvm-payload-'));
  try {
    const object = join(directory, 'payload.o');
    const image = join(directory, 'payload.bin');
    writeFileSync(join(directory, 'payload.s'), `.intel_syntax noprefix\n${source}\n`);
    execFileSync('as', ['--64', '-o', object, join(directory, 'payload.s')]);
    execFileSync('ld', [`-Ttext=${origin}`, '--entry=0', '--oformat=binary', '-o', image, object]);
    return readFileSync(image);
  } finally {
    rmSync(directory, { recursive: true });
  }
}
