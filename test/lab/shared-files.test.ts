// Files of the image in memory that is the host's: containers share its pages, and nothing else about them is different.
import { readFileSync } from 'node:fs';

import { afterAll, beforeAll, expect, test } from 'vitest';

import { SERVICES, ServiceHost } from './service-host.js';
import { PROJECT } from './support.js';

let host: ServiceHost;
beforeAll(async () => {
  host = await ServiceHost.start();
});
afterAll(() => host?.close());

const program = readFileSync(`${PROJECT}/test/lab/drivers/window.py`, 'utf8');
const python = (options: string, ...args: string[]) =>
  host.shell(
    `clearvm run --rm -v volume:/volume ${options} ${SERVICES} python3 -c "$P" ${args.join(' ')}`,
    {
      env: { P: program },
    },
  );

/** What window.py prints, but for the memory that its first step takes, KiB. */
const seen = (copies: number) => ({
  reads_and_maps: [true, copies === 0 ? 0 : expect.any(Number)],
  private_changes_stay: [true, 7, true, true],
  pages_can_be_held: [131072, true, true, true],
  debuggers_read: [true, 8192, true],
  changes_are_seen: [true, true, true, true, true, true, true],
  sizes_change: [true, true, true],
  removed_files_stay: [true, true, false],
  replaced_files_are_new: [true, true, true],
  owners_change: [true, true, true],
  copies_run: 0,
});

test.each([
  ['forked', '', 0],
  ['booted', '--no-template', 0],
  ['with --private-files', '--private-files', 1],
])('what is read, mapped, held, changed and removed, %s', async (_, options, copies) => {
  const { stdout, stderr } = await python(options);
  expect(stderr).toBe('');
  const steps = JSON.parse(stdout);
  expect(steps).toEqual(seen(copies));
  if (copies > 0) expect(steps.reads_and_maps[1]).toBeGreaterThan(0);
});

test('containers share the pages of the host', async () => {
  await host.ok(`
    for i in 1 2; do clearvm run -d --name share$i ${SERVICES} python3 -c "$(cat <<'EOF'
import mmap, time
with open('/usr/bin/python3.11', 'rb') as file: m = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
print('ready', sum(m[::4096]) > 0, flush=True)
time.sleep(1000)
EOF
)" > /dev/null; done
    for i in 1 2; do until clearvm logs share$i | grep -q ready; do sleep 0.1; done; done`);
  const kib = async (name: string, what: string) =>
    Number(
      await host.ok(
        `awk '/-/ && $1 ~ /-/ { hit = /python3.11$/ } hit && /^${what}:/ { sum += $2 } END { print sum }' /proc/${await host.vmmOf(name)}/smaps`,
      ),
    );
  const rss = await kib('share1', 'Rss');
  expect(rss).toBeGreaterThan(4096);
  expect(await kib('share1', 'Pss')).toBeLessThan(0.6 * rss);
  await host.ok('clearvm rm -f share1 share2');
});

test('a snapshot goes on with what its programs have mapped, were it removed', async () => {
  await host.ok(`clearvm run -d --name mapped ${SERVICES} python3 -c "$(cat ${PROJECT}/test/lab/drivers/window.py)" keep > /dev/null
    until clearvm logs mapped | grep -q ready; do sleep 0.1; done
    clearvm snapshot create --leave-running mapped s > /dev/null
    clearvm snapshot restore --name restored s > /dev/null`);
  for (const name of ['mapped', 'restored']) {
    await host.ok(
      `clearvm exec ${name} touch /go; until clearvm logs ${name} | grep -q '^\\['; do sleep 0.1; done`,
    );
    expect(await host.ok(`clearvm logs ${name} | tail -n 1`)).toBe('[true, true, 0]');
  }
});
