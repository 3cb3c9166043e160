// Fifty further processes in one container at once, each with much to read and to write, and one whose reader has stopped.
import { afterAll, beforeAll, expect, test } from 'vitest';

import { IMAGE, LONG, PROJECT, startHost, type Host } from './support.js';

const EXECS = 50;
const BYTES = LONG ? 10_000_000 : 500_000;
const STALL_MS = LONG ? 60_000 : 0;

let host: Host;
beforeAll(async () => {
  host = await startHost();
  const { status } = await host.clearvm(['run', '-d', '--name', 'main', IMAGE, 'sleep', '100000']);
  expect(status).toBe(0);
});
afterAll(() => host?.close());

test(`${EXECS} at once, each with ${BYTES} bytes each way, while another one's reader stands still`, async () => {
  const { status, stdout, stderr } = await host.run(
    [...[process.execPath, '--input-type=module', '-e'], PROGRAM],
    { env: { EXECS: `${EXECS}`, BYTES: `${BYTES}`, STALL_MS: `${STALL_MS}` } },
  );
  expect(stderr).toBe('');
  expect(status).toBe(0);
  expect(JSON.parse(stdout)).toEqual({
    ...{ equal: EXECS, codes: [7], stalledEnded: false, stalledEqual: true, stalledCode: 0 },
  });
});

/** What each process is sent differs, comes back through `cat`, and is summed in the guest as well. */
const PROGRAM = `
  import { createHash } from 'node:crypto';
  import { once } from 'node:events';
  import { text } from 'node:stream/consumers';
  import { setTimeout } from 'node:timers/promises';
  import { Engine } from '${PROJECT}/dist/index.js';

  const [execs, bytes, stall] = ['EXECS', 'BYTES', 'STALL_MS'].map((name) => Number(process.env[name]));
  const engine = new Engine();
  const container = await engine.container('main');
  const PIECE = 65536;
  /** Pieces of a stream that no other has, and that needs no memory. */
  function* content(seed) {
    for (let at = 0; at < bytes; at += PIECE) {
      const piece = createHash('shake128', { outputLength: Math.min(PIECE, bytes - at) });
      yield piece.update(seed + ' ' + at).digest();
    }
  }
  const sumOf = async (stream) => {
    const hash = createHash('sha256');
    for await (const chunk of stream) hash.update(chunk);
    return hash.digest('hex');
  };
  const write = async (stream, seed) => {
    for (const piece of content(seed)) if (!stream.write(piece)) await once(stream, 'drain');
    stream.end();
  };
  const [stalledSize, unread] = [bytes + (4 << 20), 'head -c $SIZE /dev/zero | tr "\\\\0" x'];
  const stalled = await container.exec(['sh', '-c', unread], { env: ['SIZE=' + stalledSize] });
  let stalledEnded = false;
  stalled.wait().then(() => (stalledEnded = true));

  const one = async (_, i) => {
    const command = 'tee /tmp/copy-' + i + '; sha256sum < /tmp/copy-' + i + ' >&2; rm /tmp/copy-' + i + '; exit 7';
    const process = await container.exec(['sh', '-c', command], { stdin: 'pipe' });
    const [sum, told, { exitCode }] = await Promise.all([
      sumOf(process.stdout), text(process.stderr), process.wait(), write(process.stdin, 'exec ' + i),
    ]);
    const sent = await sumOf(content('exec ' + i));
    return { equal: sum === sent && told.startsWith(sent + ' '), exitCode };
  };
  const began = Date.now();
  const results = await Promise.all(Array.from({ length: execs }, one));
  await setTimeout(Math.max(0, stall - (Date.now() - began)));
  const before = stalledEnded;
  const expected = createHash('sha256').update(Buffer.alloc(stalledSize, 'x')).digest('hex');
  const stalledEqual = (await sumOf(stalled.stdout)) === expected;
  const { exitCode } = await stalled.wait();
  console.log(JSON.stringify({
    equal: results.filter(({ equal }) => equal).length,
    codes: [...new Set(results.map(({ exitCode }) => exitCode))],
    stalledEnded: before, stalledEqual, stalledCode: exitCode,
  }));`;

test.runIf(LONG)(`${EXECS} command lines at once, the same way`, async () => {
  const { status, stdout, stderr } = await host.shell(`
    cd /tmp
    for i in $(seq ${EXECS}); do
      ( { head -c ${BYTES - 10} /dev/urandom; printf %010d $i; } > sent-$i
        clearvm exec -i main cat < sent-$i | cmp - sent-$i && echo equal; rm sent-$i ) &
    done
    wait`);
  expect(stderr).toBe('');
  expect(stdout).toBe('equal\n'.repeat(EXECS));
  expect(status).toBe(0);
});

test('a reader that is slow, or stands still, gets all that a container has said', async () => {
  // More than fits into a pipe and sockets, and less than makes the container wait.
  const { stdout, stderr } = await host.shell(`
    slowly() { total=0; while n=$(dd bs=32768 count=1 2> /dev/null | wc -c); [ $n -gt 0 ]; do total=$((total + n)); done; echo $total; }
    clearvm run --name slow ${IMAGE} head -c 500000 /dev/zero | { sleep 15; wc -c; }
    clearvm logs slow | slowly`);
  expect({ stdout, stderr }).toEqual({ stdout: '500000\n500000\n', stderr: '' });
});

test('what shares a pipe with a command finds it as it was', async () => {
  const { stdout, stderr } = await host.shell(
    '{ clearvm rm slow; seq 100000; } | { sleep 3; tail -n 1; }',
  );
  expect({ stdout, stderr }).toEqual({ stdout: '100000\n', stderr: '' });
});
