// The 9P server under the Linux kernel's own client, in the lab: what programs see of a directory over 9P must be what
// they see of it directly.

import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Lab } from '../../scripts/lab/machine.mjs';

const PROJECT = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');
const TRANSCRIPT = join(PROJECT, 'test/conformance/posix_transcript.sh');

let lab: Lab;
let scratch: string;
let direct: string;

beforeAll(async () => {
  scratch = mkdtempSync(join(PROJECT, 'build/p9-test-'));
  const sources = readdirSync(join(PROJECT, 'native/p9')).filter((name) => name.endsWith('.cc'));
  await execa(
    'g++',
    [
      ...['-std=c++20', '-fno-rtti', '-O1', '-g1', '-fsanitize=address,undefined'],
      ...['-fno-sanitize=vptr', '-fno-sanitize-recover=all', '-I.', '-o', `${scratch}/server`],
      'test/native/p9_socket_server.cc',
      'native/base/result.cc',
      ...sources.map((name) => `native/p9/${name}`),
    ],
    { cwd: PROJECT, stdio: 'inherit' },
  );
  lab = await Lab.start({ shares: [PROJECT] });
  await shell('modprobe 9pnet_fd');
  direct = await shell(`
    mkdir /tmp/direct
    mount -t tmpfs -o mode=755 direct /tmp/direct
    ${TRANSCRIPT} /tmp/direct 2>&1`);
  expect(direct).toContain('== devices');
});

afterAll(async () => {
  await lab?.close();
  rmSync(scratch, { recursive: true, force: true });
});

async function shell(script: string): Promise<string> {
  const { status, stdout, stderr } = await lab.run(['sh', '-c', script]);
  expect(status, stderr.toString()).toBe(0);
  return stdout.toString();
}

test.each(['loose', 'none'])('programs see no difference with cache=%s', async (cache) => {
  const options = `trans=unix,version=9p2000.L,cache=${cache},access=client,msize=512000`;
  const served = await shell(`
    set -e
    mkdir -p /tmp/export-${cache} /tmp/mount-${cache}
    ${scratch}/server --unix /tmp/${cache}.sock /tmp/export-${cache} > /tmp/${cache}.log 2>&1 &
    until grep -qs serving /tmp/${cache}.log; do sleep 0.1; done
    mount -t 9p -o ${options} /tmp/${cache}.sock /tmp/mount-${cache}
    ${TRANSCRIPT} /tmp/mount-${cache} 2>&1
    umount /tmp/mount-${cache}
    kill $!
    # What the sanitizers had to say would be behind the first line.
    sed 1d /tmp/${cache}.log`);
  expect(served).toBe(direct);
});
