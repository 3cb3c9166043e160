// Memory that a guest does not use goes back to the host.
import { afterAll, beforeAll, expect, test } from 'vitest';

import { IMAGE, ROOT, startHost, type Host } from './support.js';

let host: Host;
beforeAll(async () => {
  host = await startHost();
});
afterAll(() => host?.close());

// MiB that the VMM of the only container has of the host, its guest's memory included.
const RESIDENT = `
  resident() { awk '/^Rss/ { print int($2 / 1024) }' /proc/$(pgrep -x clearvm-vmm)/smaps_rollup; }
  below() { until [ $(resident) -lt $1 ]; do sleep 0.5; done; }`;

test.each([['forked'], ['booted']])('what a %s guest has freed', async (how) => {
  const { stdout, stderr } = await host.shell(`${RESIDENT}
    clearvm run -d --name freeing ${how === 'booted' ? '--no-template' : ''} --tmpfs /big ${IMAGE} sleep 1000 >/dev/null
    clearvm exec freeing sh -c 'dd if=/dev/zero of=/big/file bs=1M count=120 2>/dev/null'
    [ $(resident) -ge 120 ] && echo used
    clearvm exec freeing rm /big/file
    below 80
    clearvm exec freeing sh -c 'dd if=/dev/zero of=/big/file bs=1M count=120 2>/dev/null; sha256sum /big/file'
    [ $(resident) -ge 120 ] && echo used again
    clearvm rm -f freeing`);
  expect(stderr).toBe('');
  expect(stdout).toBe(
    'used\n' +
      '5c4fb902a2d45300919e27920c96fa090d0a3e42f7ee8e778ca852a30a2905b2  /big/file\n' +
      'used again\nfreeing\n',
  );
});

test.each([['forked'], ['booted']])(
  'memory of a %s guest counts at once, and is touched when it is needed',
  async (how) => {
    const { stdout, stderr } = await host.shell(`${RESIDENT}
    ${how === 'forked' ? `clearvm run --rm --memory 4g ${IMAGE} true; until ls ${ROOT}/templates/1-4294967296-1-*.vm >/dev/null 2>&1; do sleep 0.5; done` : ''}
    mebibytes() { clearvm exec large awk "/^$1:/ { print int(\\$2 / 1024) }" /proc/meminfo; }
    clearvm run -d --name large ${how === 'booted' ? '--no-template' : ''} --memory 1500m ${IMAGE} sleep 1000 >/dev/null
    [ $(resident) -lt 48 ] && echo small
    [ $(mebibytes MemTotal) -gt 1400 ] && [ $(mebibytes MemFree) -gt 1350 ] && [ $(mebibytes MemAvailable) -gt 1250 ] && echo large
    clearvm exec large dd if=/dev/zero of=/dev/null bs=1200M count=1 2>/dev/null && echo enough
    clearvm exec large tail /dev/zero; echo $?
    [ $(mebibytes MemFree) -gt 1300 ] && echo free
    clearvm rm -f large`);
    expect(stderr).toBe('');
    expect(stdout).toBe('small\nlarge\nenough\n137\nfree\nlarge\n');
  },
);

test('--memory-reservation: the rest is the host’s until a program needs it', async () => {
  const { stdout, stderr } = await host.shell(`${RESIDENT}
    clearvm run -d --name small --memory 512m --memory-reservation 128m ${IMAGE} sleep 1000 >/dev/null
    until [ $(clearvm exec small awk '/^MemFree/ { print int($2 / 1024) }' /proc/meminfo) -lt 128 ]; do sleep 0.5; done
    clearvm exec small dd if=/dev/zero of=/dev/null bs=300M count=1 2>/dev/null && echo enough
    clearvm inspect small | grep -o '"MemoryReservation": .*'
    clearvm rm -f small`);
  expect(stderr).toBe('');
  expect(stdout).toBe('enough\n"MemoryReservation": 134217728,\nsmall\n');
});

test('a program that its kernel has killed for want of memory', async () => {
  const { stdout, stderr } = await host.shell(`
    clearvm run --name greedy --memory 64m ${IMAGE} tail /dev/zero; echo $?
    clearvm run --name killed --memory 64m ${IMAGE} sh -c 'kill -9 $$'; echo $?
    clearvm inspect -f '{{.State.OOMKilled}}' greedy killed
    clearvm events --since 1h --until 0s -f event=oom -f container=greedy -f container=killed --format '{{.Actor.Attributes.name}}'
    clearvm rm greedy killed`);
  expect(stderr).toBe('');
  expect(stdout).toBe('137\n137\ntrue\nfalse\ngreedy\ngreedy\nkilled\n');
});

test('--hugepages: all of its memory is taken from the pool, and given back', async () => {
  const refused = await host.shell(`clearvm run --rm --hugepages --memory 128m ${IMAGE} true`);
  expect(refused).toMatchObject({ status: 125, stdout: '' });
  expect(refused.stderr).toMatch(/fewer than 64 free huge pages of 2 MiB: set vm.nr_hugepages/);
  const { stdout, stderr } = await host.shell(`
    free() { awk '/^HugePages_Free/ { free = $2 } /^HugePages_Rsvd/ { print free - $2 }' /proc/meminfo; }
    sysctl -qw vm.nr_hugepages=80; free
    clearvm run -d --name huge --hugepages --memory 128m --tmpfs /big ${IMAGE} sleep 1000 >/dev/null; free
    clearvm exec huge sh -c 'for i in 1 2; do dd if=/dev/zero of=/big/file bs=1M count=50 2>/dev/null; rm /big/file; done; echo works'
    clearvm snapshot create huge snapshot >/dev/null; clearvm rm huge >/dev/null; free
    clearvm snapshot restore --name again snapshot >/dev/null; clearvm exec again echo goes on; free
    clearvm restart -t 0 again >/dev/null; free; clearvm rm -f again; clearvm snapshot rm snapshot; free
    sysctl -qw vm.nr_hugepages=0`);
  expect({ stdout, stderr }).toEqual({
    stdout: '80\n16\nworks\n80\ngoes on\n80\n16\nagain\nsnapshot\n80\n',
    stderr: '',
  });
});
