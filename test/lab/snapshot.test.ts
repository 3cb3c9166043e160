// Snapshots of running containers, and forks: what ran goes on, and what must not be shared is not.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { IMAGE, PROJECT, ROOT, RUNTIME, startHost, type Host } from './support.js';

let host: Host;
beforeAll(async () => {
  host = await startHost();
  await host.shell(`mkdir -p -m 700 ${ROOT}/snapshots ${RUNTIME}/snapshots`);
});
afterAll(() => host?.close());

/** Runs a script that must succeed; its output. */
async function sh(script: string): Promise<string> {
  const { status, stdout, stderr } = await host.shell(`set -e\n${script}`);
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  return stdout;
}

/** In a container: counts in a file, which is never empty. */
const COUNT = 'i=$((i+1)); echo $i > /tmp/next; mv /tmp/next /tmp/count; sleep 0.1';
/** Waits, on the host, until the container's log has a line. */
const AWAIT = `await() { until clearvm logs "$1" | grep "^$2" > /dev/null; do sleep 0.2; done; }`;

describe('a restored container', () => {
  test('goes on from where it was, with its files, open ones without a name, and its volume', async () => {
    const lines = await sh(`${AWAIT}
      mkdir -p /tmp/vol; echo before > /tmp/vol/shared
      clearvm run -d --name one -v /tmp/vol:/vol ${IMAGE} sh -c '
        exec 3<> /tmp/nameless 4>> /vol/log 5< /vol/shared; echo kept >&3; rm /tmp/nameless; mkdir /tmp/d; cd /tmp/d; rmdir /tmp/d
        x=secret; echo ready; i=0
        while [ ! -e /tmp/go ]; do ${COUNT}; done
        echo "variable $x"; echo more >&3; cat /proc/self/fd/3; cat <&5; echo written >&4; pwd; exit 7' > /dev/null
      await one ready
      clearvm snapshot create --leave-running one first
      clearvm rm -f one > /dev/null
      echo "gone: $(clearvm ps -aq | wc -l)"
      clearvm snapshot restore --name again first > /tmp/id
      [ "$(clearvm inspect -f '{{.Id}}' again)" = "$(cat /tmp/id)" ]
      a=$(clearvm exec again cat /tmp/count); until [ "$(clearvm exec again cat /tmp/count)" -gt "$a" ]; do :; done
      clearvm exec again touch /tmp/go
      echo "status $(clearvm wait again)"
      clearvm logs again
      cat /tmp/vol/log`);
    expect(lines.trim().split('\n')).toEqual([
      'first',
      'gone: 0',
      'status 7',
      'variable secret',
      'kept',
      'more',
      'before',
      '/tmp/d',
      'written',
    ]);
    // Started again, it begins anew, with the files as they are now.
    expect(
      await sh(`${AWAIT}
        clearvm start again > /dev/null; await again ready
        clearvm logs again | grep -c '^ready'; clearvm rm -f again > /dev/null; clearvm snapshot rm first`),
    ).toBe('1\nfirst\n');
  });

  test('is ended by the snapshot unless it is to go on, and may be restored many times', async () => {
    const text = await sh(`
      clearvm run -d --name two ${IMAGE} sh -c 'i=0; while :; do ${COUNT}; done' > /dev/null
      clearvm exec two sh -c 'until [ -e /tmp/count ]; do :; done'
      clearvm snapshot create two second
      clearvm inspect -f '{{.State.Status}} {{.State.ExitCode}}' two
      for i in 1 2; do clearvm snapshot restore --name two$i second > /dev/null; done
      for i in 1 2; do clearvm exec two$i sh -c 'test -s /tmp/count && hostname'; done | sort -u | wc -l
      clearvm rm -f two two1 two2 > /dev/null; clearvm snapshot ls -q; clearvm snapshot rm second`);
    expect(text).toBe('second\nexited 137\n2\nsecond\nsecond\n');
  });

  test('keeps a second process, whose client is not there, and takes commands', async () => {
    const text = await sh(`${AWAIT}
      clearvm run -d --name three ${IMAGE} sh -c 'echo ready; sleep 1000' > /dev/null
      await three ready
      clearvm exec -d three sh -c 'while :; do sleep 0.1; date > /tmp/second; done'
      clearvm exec three sleep 2000 > /dev/null 2>&1 &
      until clearvm top three | grep -q 'sleep 2000'; do :; done
      clearvm exec three sh -c 'until [ -s /tmp/second ]; do :; done'
      clearvm snapshot create --leave-running three third
      clearvm snapshot restore --name three2 third > /dev/null
      clearvm exec three2 sh -c 'rm /tmp/second; until [ -s /tmp/second ]; do :; done; echo goes on'
      clearvm stop -t 0 three2 > /dev/null; clearvm rm -f three three2 > /dev/null; clearvm snapshot rm third; wait`);
    expect(text).toBe('third\ngoes on\nthird\n');
  });

  test('has the memory that it had, which is less than its template’s', async () => {
    const lines = await sh(`
      total() { clearvm exec $1 awk '/^MemTotal/ { print $2 }' /proc/meminfo; }
      clearvm run -d --name small -m 200m ${IMAGE} sleep 1000 > /dev/null
      before=$(total small)
      clearvm snapshot create small memory > /dev/null; clearvm rm small > /dev/null
      clearvm snapshot restore --name again memory > /dev/null
      [ $(total again) = $before ] && [ $before -lt 204800 ] && echo same
      clearvm exec again tail /dev/zero || echo $?
      clearvm exec again echo lives; clearvm rm -f again > /dev/null; clearvm snapshot rm memory`);
    expect(lines).toBe('same\n137\nlives\nmemory\n');
  });

  test('has two processors, and a terminal', async () => {
    const text = await sh(`
      clearvm run -dt --cpus 2 --name four ${IMAGE} sh -c 'while :; do :; done & read line; echo "got $line"' > /dev/null
      clearvm snapshot create --leave-running four fourth
      clearvm snapshot restore --name four2 fourth > /dev/null
      clearvm exec four2 sh -c 'grep -c ^processor /proc/cpuinfo'
      clearvm rm -f four four2 > /dev/null; clearvm snapshot rm fourth`);
    expect(text).toBe('fourth\n2\nfourth\n');
  });
});

test('a snapshot goes on on another host, which has the image', async () => {
  const carry = `tar -C ${ROOT}/snapshots`;
  await sh(`${AWAIT}
    clearvm run -d --name here ${IMAGE} sh -c '
      exec 3<> /tmp/nameless; rm /tmp/nameless; x=secret; echo kept >&3; echo ready
      until [ -e /tmp/go ]; do sleep 0.1; done; cat /proc/self/fd/3; echo "variable $x"' > /dev/null
    await here ready
    clearvm snapshot create here carried; clearvm rm here > /dev/null`);
  const carried = await host.lab.run(['sh', '-c', `${carry} -cz carried`]);
  expect(carried).toMatchObject({ status: 0, stderr: Buffer.alloc(0) });
  const other = await startHost();
  try {
    const unpacked = await other.lab.run(
      ['sh', '-c', `mkdir -m 700 ${ROOT}/snapshots; ${carry} -xz`],
      { stdin: carried.stdout },
    );
    expect(unpacked).toMatchObject({ status: 0, stderr: Buffer.alloc(0) });
    const { stdout, stderr } = await other.shell(`
      clearvm snapshot restore --name there carried > /dev/null
      clearvm exec there touch /tmp/go; clearvm wait there; clearvm logs there; clearvm rm there`);
    expect({ stdout, stderr }).toEqual({ stdout: '0\nkept\nvariable secret\nthere\n', stderr: '' });
  } finally {
    await other.close();
  }
  expect(await sh('clearvm snapshot rm carried')).toBe('carried\n');
});

test('forks share nothing that must be their own, and have the right time', async () => {
  const script = `
    import { Engine } from '${PROJECT}/dist/index.js';
    const engine = new Engine();
    const cmd = ['sh', '-c', 'mkfifo /tmp/f; cat /proc/sys/kernel/random/uuid > /dev/null; echo ready; read line < /tmp/f; ' +
      'head -c 16 /dev/urandom | hexdump -e \\'16/1 "%02x" "\\\\n"\\'; cat /proc/sys/kernel/random/uuid /proc/sys/kernel/random/boot_id; cat /etc/hostname; hostname; date +%s'];
    const original = await engine.create('${IMAGE}', { cmd, name: 'source' });
    await original.start();
    const read = async (container) => {
      let text = '';
      for await (const { log } of container.logs()) text += log;
      return text.trim().split('\\n');
    };
    while (!(await read(original)).includes('ready')) await new Promise((resolve) => setTimeout(resolve, 100));
    const forks = await original.fork(3);
    const clocks = [];
    const lines = [];
    for (const container of [original, ...forks]) {
      const before = Math.floor(Date.now() / 1000);
      const process = await engine.exec(container.id, ['sh', '-c', 'echo > /tmp/f'], { stdout: 'ignore', stderr: 'ignore' });
      await process.wait();
      await container.wait();
      const all = (await read(container)).filter((line) => line !== 'ready');
      clocks.push({ before, inside: Number(all.pop()), after: Math.floor(Date.now() / 1000) });
      lines.push(all);
    }
    const ids = [original, ...forks].map(({ id }) => id);
    const names = [original, ...forks].map(({ name }) => name);
    for (const container of [original, ...forks]) await container.remove();
    console.log(JSON.stringify({ clocks, lines, ids, names }));`;
  const outcome = await host.run([process.execPath, '--input-type=module', '-e', script]);
  expect(outcome.stderr).toBe('');
  const found = JSON.parse(outcome.stdout) as {
    clocks: { before: number; inside: number; after: number }[];
    lines: string[][];
    ids: string[];
    names: string[];
  };
  for (const { before, inside, after } of found.clocks) {
    expect(inside).toBeGreaterThanOrEqual(before);
    expect(inside).toBeLessThanOrEqual(after);
  }
  expect(new Set(found.names).size).toBe(4);
  for (let i = 0; i < 5; i++) {
    expect(new Set(found.lines.map((all) => all[i])).size, found.lines[0]?.[i]).toBe(4);
  }
  for (const [index, all] of found.lines.entries()) {
    expect(all.slice(3)).toEqual(Array(2).fill(found.ids[index]?.slice(0, 12)));
  }
  // Nothing of the fork's snapshot is left.
  expect(await sh(`ls -A ${ROOT}/snapshots`)).toBe('');
});

test('a snapshot that is damaged or foreign is refused by name, and leaves nothing', async () => {
  const before = await host.traces();
  const outcome = await host.run([
    ...[process.execPath, '--input-type=module', '-e'],
    `import { Engine } from '${PROJECT}/dist/index.js';
     import * as fs from 'node:fs';
     const engine = new Engine();
     const snapshots = await engine.snapshots();
     const container = await engine.create('${IMAGE}', { cmd: ['sleep', '1000'] });
     await container.start();
     await snapshots.create(container.id, { name: 'good' });
     await container.remove();
     const directory = '${ROOT}/snapshots/good/';
     const flip = (at) => (bytes) => { bytes[at < 0 ? bytes.length + at : at] ^= 1; return bytes; };
     const cut = (bytes) => bytes.subarray(0, bytes.length - 1);
     const damages = {
       'memory': ['machine.vm', flip(-5000)], 'state': ['machine.vm', flip(9000)], 'machine cut': ['machine.vm', cut], 'host': ['machine.vm', flip(42)],
       'version': ['machine.vm', flip(8)], 'layer': ['layer.tar', flip(100)], 'layer cut': ['layer.tar', cut],
       'record': ['container.json', flip(20)], 'spec': ['config.json', flip(20)], 'config cut': ['vm.json', cut],
       'manifest': ['snapshot.json', flip(30)], 'manifest cut': ['snapshot.json', cut],
     };
     const results = {};
     for (const [what, [file, damage]] of Object.entries(damages)) {
       const good = fs.readFileSync(directory + file);
       fs.writeFileSync(directory + file, damage(Buffer.from(good)));
       results[what] = await snapshots.restore('good').then(() => 'restored', ({ code, message }) => code + ' ' + /good|snapshot/.test(message));
       fs.writeFileSync(directory + file, good);
     }
     const whole = await snapshots.restore('good');
     results.inUse = await snapshots.remove('good').then(() => 'removed', ({ code }) => code);
     await whole.remove({ force: true });
     await snapshots.remove('good');
     results.missing = await snapshots.restore('good').then(() => 'restored', ({ code }) => code);
     console.log(JSON.stringify(results));`,
  ]);
  expect(outcome.stderr).toBe('');
  expect(JSON.parse(outcome.stdout)).toEqual({
    memory: 'ERR_SNAPSHOT_DAMAGED true',
    state: 'ERR_SNAPSHOT_DAMAGED true',
    'machine cut': 'ERR_SNAPSHOT_DAMAGED true',
    host: 'ERR_SNAPSHOT_DAMAGED true',
    version: 'ERR_SNAPSHOT_FOREIGN true',
    layer: 'ERR_SNAPSHOT_DAMAGED true',
    'layer cut': 'ERR_SNAPSHOT_DAMAGED true',
    record: 'ERR_SNAPSHOT_DAMAGED true',
    spec: 'ERR_SNAPSHOT_DAMAGED true',
    'config cut': 'ERR_SNAPSHOT_DAMAGED true',
    manifest: 'ERR_SNAPSHOT_DAMAGED true',
    'manifest cut': 'ERR_SNAPSHOT_DAMAGED true',
    inUse: 'ERR_SNAPSHOT_IN_USE',
    missing: 'ERR_SNAPSHOT_NOT_FOUND',
  });
  expect(await host.traces()).toBe(before);
});

test('what is locked or gone on a volume is refused by name; so is what is not there', async () => {
  const failures = async (script: string): Promise<string[]> => {
    const { stderr } = await host.shell(script);
    return stderr.trim().split('\n');
  };
  await sh(`${AWAIT}
    mkdir -p /tmp/locks
    printf '%s' '
      int open(const char*, int, ...), flock(int, int), puts(const char*), fflush(void*), pause(void);
      int main(void) { flock(open("/v/db", 0102, 0600), 2); puts("ready"); fflush(0); return pause(); }' |
      musl-gcc -static -x c - -o /tmp/locks/lock
    clearvm run -d --name five -v /tmp/locks:/v ${IMAGE} /v/lock > /dev/null
    await five ready
    clearvm snapshot create --leave-running five fifth`);
  const errors = await failures(`
    clearvm fork five; clearvm snapshot restore fifth
    clearvm rm -f five > /dev/null; rm /tmp/locks/db; clearvm snapshot restore fifth
    clearvm snapshot create five; clearvm snapshot restore none; clearvm snapshot rm none; clearvm fork --count 0 five
    clearvm snapshot rm fifth > /dev/null`);
  expect(errors).toEqual([
    expect.stringMatching(/\/db .*locked/),
    expect.stringMatching(/\/db .*locked/),
    expect.stringMatching(/\/db .*not there any more/),
    expect.stringMatching(/No such container: five/),
    expect.stringMatching(/No such snapshot: none/),
    expect.stringMatching(/No such snapshot: none/),
    expect.stringMatching(/--count 0/),
  ]);
});
