// A full disk: while an image is pulled, loaded or unpacked, while a container is made, and while its log is written. Each says what
// is wrong in one line, what was there is whole, and once there is room all goes on.
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';

import { busyboxImage } from '../../scripts/images.mjs';
import { startHost, type Host, type Outcome } from './support.js';

const SMALL = '/small';
/** One line that says so, and what to do. */
const NO_ROOM = /^clearvm: .*no space left on the disk; free some and try again\n$/;
const REGISTRY = '127.0.0.1:5000';

let host: Host;
beforeAll(async () => {
  const { archive } = await busyboxImage();
  host = await startHost();
  await ok(`
    mkdir ${SMALL}; mount -t tmpfs -o size=24m none ${SMALL}
    clearvm load -q -i ${archive} --name busybox
    mkdir /tmp/large; head -c 6000000 /dev/urandom > /tmp/large/random; tar -C /tmp/large -cf /tmp/large.tar random
    truncate -s 60M /tmp/large/zeros; tar -C /tmp/large -czf /tmp/zeros.tar.gz zeros
    clearvm import /tmp/large.tar ${REGISTRY}/large:1 > /dev/null`);
});
afterAll(() => host?.close());
beforeEach(() =>
  ok(`rm -f ${SMALL}/filler; clearvm rm -f $(clearvm ps -aq) > /dev/null 2>&1 || :`),
);

const small = (script: string): Promise<Outcome> =>
  host.shell(script, { env: { CLEARVM_ROOT: `${SMALL}/root` } });

async function ok(script: string): Promise<string> {
  const { status, stdout, stderr } = await small(`set -e\n${script}`);
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  return stdout.trimEnd();
}

/** Takes all of the small disk but so many KiB. */
const fill = (but: number): string =>
  `head -c $(( ($(df --output=avail -k ${SMALL} | tail -n 1) - ${but}) * 1024 )) /dev/zero > ${SMALL}/filler 2> /dev/null || :\n`;

/** What the store has: its files with their sums. */
const store = (): Promise<string> =>
  ok(
    `cd ${SMALL}/root; find . \\( -path ./events -o -path ./images/locks \\) -prune -o -type f -exec sha256sum {} + -o -print | sort`,
  );

/** Runs a script that fails for the lack of room, and changes nothing. */
async function hasNoRoom(script: string, expected: number): Promise<void> {
  const before = await store();
  const { status, stdout, stderr } = await small(script);
  expect(stderr).toMatch(NO_ROOM);
  expect([status, stdout]).toEqual([expected, '']);
  await ok('clearvm image prune -f > /dev/null');
  expect(await store()).toBe(before);
  expect(await ok('clearvm run --rm --no-template --pull never busybox echo works')).toBe('works');
}

describe('images', () => {
  test('pull: what is missing is said, and the next pull brings all', async () => {
    await ok(`
      echo '{"version": "0.1", "log": {"level": "error"}, "http": {"addr": "${REGISTRY}"},
        "storage": {"filesystem": {"rootdirectory": "/tmp/registry"}}}' > /tmp/registry.yml
      ip link set lo up
      docker-registry serve /tmp/registry.yml > /tmp/registry.log 2>&1 &
      until (: < /dev/tcp/127.0.0.1/5000) 2> /dev/null; do sleep 0.1; done
      clearvm push -q ${REGISTRY}/large:1; clearvm rmi ${REGISTRY}/large:1 > /dev/null`);
    await hasNoRoom(`${fill(3000)} clearvm pull -q ${REGISTRY}/large:1`, 1);
    // Room for the layer as it comes, and not for what is in it.
    await hasNoRoom(`rm ${SMALL}/filler; ${fill(8000)} clearvm pull -q ${REGISTRY}/large:1`, 1);
    const sums = await ok(`
      rm ${SMALL}/filler; clearvm pull -q ${REGISTRY}/large:1 > /dev/null
      find ${SMALL}/root/images -name random -exec sha256sum {} + | cut -d ' ' -f 1; sha256sum < /tmp/large/random | cut -d ' ' -f 1
      clearvm rmi ${REGISTRY}/large:1 > /dev/null`);
    const [pulled, sent] = sums.split('\n');
    expect(pulled).toBe(sent);
  });

  test('load and import, of which little comes and much is unpacked', async () => {
    await hasNoRoom(`clearvm import /tmp/zeros.tar.gz zeros`, 125);
    const { archive } = await busyboxImage();
    await ok('clearvm tag busybox kept; clearvm rmi busybox > /dev/null');
    await ok('clearvm tag kept busybox; clearvm rmi kept > /dev/null');
    await hasNoRoom(`${fill(100)} clearvm import /tmp/large.tar large`, 125);
    await ok(`rm ${SMALL}/filler; clearvm load -q -i ${archive} --name again; clearvm rmi again`);
  });
});

describe('containers', () => {
  test('one cannot be made; those that are there can be stopped and removed', async () => {
    await ok(`clearvm run -d --no-template --name old busybox sleep 1000`);
    const before = await store();
    const { status, stdout, stderr } = await small(
      `${fill(0)} clearvm create --name new busybox true`,
    );
    expect(stderr).toMatch(NO_ROOM);
    expect([status, stdout]).toEqual([1, '']);
    await ok(`rm ${SMALL}/filler`);
    expect(await store()).toBe(before);
    expect(
      await ok(`
        ${fill(0)}
        clearvm exec old echo runs
        clearvm stop -t 0 old; clearvm ps -a --format '{{.Names}} {{.Status}}' | cut -d ' ' -f 1-3
        clearvm rm old; clearvm ps -aq`),
    ).toBe('runs\nold\nold Exited (137)\nold');
  });

  test('a guest is told of it by fsync, and goes on', async () => {
    const { status, stdout, stderr } = await small(`
      clearvm run --rm --no-template busybox sh -c '
        dd if=/dev/zero of=/file bs=64k count=1000 conv=fsync 2>&1 | grep -o "No space left on device"
        rm /file; echo small > /file && cat /file'`);
    expect({ status, stdout, stderr }).toEqual({
      ...{ status: 0, stdout: 'No space left on device\nsmall\n', stderr: '' },
    });
  });

  test('its log has whole lines, those from before and those from after', async () => {
    const work = `
      for i in $(seq 200); do echo before $i; done; touch /tmp/filled
      until [ -e /tmp/full ]; do sleep 0.1; done
      for i in $(seq 2000); do echo lost $i; done; echo said > /tmp/said
      until [ -e /tmp/room ]; do sleep 0.1; done
      for i in $(seq 200); do echo after $i; done; exit 9`;
    const { status, stdout, stderr } = await small(`
      clearvm run -d --no-template --name talk --tmpfs /tmp busybox sh -c '${work}' > /dev/null
      log=$(echo ${SMALL}/root/containers/*/*-json.log)
      until grep -q 'before 200' $log; do sleep 0.1; done
      ${fill(0)}
      clearvm exec talk sh -c 'touch /tmp/full; until [ -e /tmp/said ]; do sleep 0.1; done'
      # The guest has written it all; what it wrote is on its way.
      sleep 2; rm ${SMALL}/filler
      clearvm exec talk touch /tmp/room; clearvm wait talk
      clearvm logs talk > /tmp/log; grep -c before /tmp/log; grep -c after /tmp/log; wc -l < /tmp/log
      node -e 'require("fs").readFileSync(process.argv[1], "utf8").trimEnd().split("\\n").forEach(JSON.parse)' $log && echo valid
      clearvm inspect -f '{{.State.Error}}' talk
      clearvm rm talk`);
    expect(stderr).toBe('');
    expect(status).toBe(0);
    const [code, before, after, all, ...rest] = stdout.trimEnd().split('\n');
    expect([code, before, after]).toEqual(['9', '200', '200']);
    expect(Number(all)).toBeLessThan(2400);
    expect(rest).toEqual(['valid', expect.stringMatching(/lines of the log are lost/), 'talk']);
  });
});
