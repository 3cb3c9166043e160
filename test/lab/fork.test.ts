// Containers forked from a template: the same to those inside as booted ones, and no two alike where they must differ.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import {
  IMAGE,
  ROOT,
  startHost,
  type Host,
  type InsideRun as Run,
  type Outcome,
} from './support.js';

let host: Host;
beforeAll(async () => {
  host = await startHost();
});
afterAll(() => host?.close());

const inside = <T>(script: string): Promise<T> => host.inside(script);

test('the first run boots and has the template made; later ones are forked, but with --no-template', async () => {
  const first = await inside<Run & { made: string[] }>(`
    const before = templates();
    const first = await run(['true'], { memory: '600m' });
    await engine.prepare({ memory: '700m' });
    console.log(JSON.stringify({ ...first, made: templates().filter((name) => !before.includes(name)) }));`);
  expect(first.from).toBe('missing');
  expect(first.made).toEqual([expect.stringMatching(/^1-4294967296-1-.*\.vm$/)]);
  const points = async (...options: string[]): Promise<Outcome> =>
    host.clearvm(['run', '--rm', '--timings', ...options, IMAGE, 'true']);
  expect((await points()).stderr).toMatch(/template in place/);
  expect((await points('--no-template')).stderr).not.toMatch(/template in place/);
  expect((await points('--debug')).stderr).not.toMatch(/template in place/);
});

test('--no-template holds for detached containers, started again or not', async () => {
  const { stdout, stderr } = await host.shell(`
    vmm() { tr '\\0' ' ' < /proc/$(clearvm inspect -f '{{.State.Pid}}' $1)/cmdline | grep -c -e '--template'; }
    for option in --no-template ''; do
      clearvm run -d --name detached $option ${IMAGE} sleep 1000 > /dev/null; vmm detached
      clearvm restart -t 0 detached > /dev/null; vmm detached
      clearvm rm -f detached > /dev/null
    done`);
  expect({ stdout, stderr }).toEqual({ stdout: '0\n0\n1\n1\n', stderr: '' });
});

describe('a forked container', () => {
  const script = `
    echo out; echo err >&2; cat; pwd; id; hostname; cat /etc/hosts; cat /proc/cpuinfo | grep -c ^processor
    ls -l /dev | sed 's/ [A-Z][a-z]* *[0-9]* [0-9:]*//'; cut -d' ' -f2,3 /proc/mounts; ls -a /; ulimit -n; env | sort; cat /vol/a; echo b > /vol/b
    grep ^Cap /proc/self/status; all=$(ps); echo "$all" | grep -vc '\\[.*\\]$'; exit 7`;
  test('is what a booted one is', async () => {
    const [forked, booted] = await inside<[Run, Run]>(`
      await engine.prepare({ memory: '200m', cpus: 2, volumes: ['/tmp/v:/vol'] });
      fs.mkdirSync('/tmp/v', { recursive: true }); fs.writeFileSync('/tmp/v/a', 'in a\\n'); fs.writeFileSync('/tmp/in', 'in\\n');
      const options = { memory: '200m', cpus: 2, hostname: 'box', volumes: ['/tmp/v:/vol'], workdir: '/home/x', user: 'nobody', env: ['A=1'], };
      const results = [];
      for (const template of [true, false]) {
        const stdin = fs.openSync('/tmp/in', 'r');
        results.push(await run(['sh', '-c', ${JSON.stringify(script)}], { ...options, user: 'root', stdin, template }));
      }
      console.log(JSON.stringify(results));`);
    expect(forked?.from).toBe('template');
    expect(booted?.from).toBe('kernel');
    expect(forked?.exitCode).toBe(7);
    expect({ ...forked, from: '' }).toEqual({ ...booted, from: '' });
  });

  test('gets signals, and ends by them', async () => {
    const status = await inside<{ from: string; exitCode: number; signal: string }>(`
      await engine.prepare();
      const container = await engine.run('${IMAGE}', { cmd: ['sleep', '1000'] });
      await container.kill('SIGTERM');
      console.log(JSON.stringify({ from: container.startedFrom, ...(await container.wait()) }));`);
    expect(status).toEqual({ from: 'template', exitCode: 143, signal: 'SIGTERM' });
  });
});

test('forks of one template have the memory that they ask for, as booted VMs have', async () => {
  const sizes = ['64m', '100m', '129m', '200004k', '512m', '3g', '3400m'];
  // The watermarks follow from the memory that there is; those of memory that was given up would be higher.
  const cmd = [
    'sh',
    '-c',
    `awk '/^MemTotal/ { print $2 }' /proc/meminfo; cat /proc/sys/vm/min_free_kbytes`,
  ];
  const all = await inside<{ size: string; forked: Run; booted: Run }[]>(`
    await engine.prepare({ memory: '512m' });
    await engine.prepare({ memory: '4g' });
    const all = [];
    for (const size of ${JSON.stringify(sizes)}) {
      const [forked, booted] = [await run(${JSON.stringify(cmd)}, { memory: size }), await run(${JSON.stringify(cmd)}, { memory: size, template: false })];
      all.push({ size, forked, booted });
    }
    console.log(JSON.stringify(all));`);
  expect(all).toHaveLength(sizes.length);
  for (const { size, forked, booted } of all) {
    expect([size, forked.from, booted.from, forked.stderr]).toEqual([
      size,
      'template',
      'kernel',
      '',
    ]);
    const [total, least] = forked.stdout.trim().split('\n').map(Number) as [number, number];
    const [bootedTotal, bootedLeast] = booted.stdout.trim().split('\n').map(Number) as [
      number,
      number,
    ];
    expect(Math.abs(total - bootedTotal), `MemTotal of ${size}, KiB`).toBeLessThan(1536);
    expect(Math.abs(least - bootedLeast), `min_free_kbytes of ${size}`).toBeLessThan(32);
  }
});

test('twenty forks of one template have nothing random in common, and the right time', async () => {
  const runs = await inside<(Run & { before: number; after: number })[]>(`
    await engine.prepare();
    const cmd = ['sh', '-c', 'date +%s; cat /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid; ' +
      'head -c 16 /dev/urandom | hexdump -e \\'16/1 "%02x" "\\\\n"\\'; head -c 16 /dev/random | hexdump -e \\'16/1 "%02x" "\\\\n"\\'; ' +
      'mknod /tmp/hwrng c 10 183; head -c 16 /tmp/hwrng | hexdump -e \\'16/1 "%02x" "\\\\n"\\'; ' +
      'od -A n -t x8 -v /proc/self/auxv | tr -d "\\\\n"; echo; grep stack /proc/self/maps; mktemp -u'];
    const runs = [];
    for (let i = 0; i < 20; i++) {
      const before = Date.now();
      runs.push({ ...(await run(cmd)), before, after: Date.now() });
    }
    console.log(JSON.stringify(runs));`);
  const lines = runs.map(({ stdout }) => stdout.trim().split('\n'));
  for (const { from, stderr } of runs)
    expect({ from, stderr }).toEqual({ from: 'template', stderr: '' });
  const [first = []] = lines;
  expect(first.length).toBe(9);
  // After the time: each is another in each fork.
  for (let i = 1; i < first.length; i++) {
    expect(new Set(lines.map((all) => all[i])).size, first[i]).toBe(runs.length);
  }
  for (const [index, { before, after }] of runs.entries()) {
    const time = Number(lines[index]?.[0]);
    expect(time).toBeGreaterThanOrEqual(Math.floor(before / 1000));
    expect(time).toBeLessThanOrEqual(Math.floor(after / 1000));
  }
});

test('a template that is damaged or foreign is not used, and made again', async () => {
  const found = await inside<Record<string, { broken: string; then: string }>>(`
    const memory = '600m';
    await engine.prepare({ memory });
    const [name] = templates().filter((name) => name.startsWith('1-4294967296-1-'));
    const path = '${ROOT}/templates/' + name;
    const good = fs.readFileSync(path);
    const damages = {
      memory: (bytes) => { bytes[bytes.length - 5000] ^= 1; return bytes; },
      state: (bytes) => { bytes[300] ^= 1; return bytes; },
      cut: (bytes) => bytes.subarray(0, bytes.length - 4096),
      empty: () => Buffer.alloc(0),
      foreign: (bytes) => { bytes[40] ^= 1; return bytes; },
      version: (bytes) => { bytes[8]++; return bytes; },
      text: () => Buffer.from('hello'),
    };
    const results = {};
    for (const [what, damage] of Object.entries(damages)) {
      // Another file: a builder that comes late may still be reading the last one.
      fs.writeFileSync(path + '.x', damage(Buffer.from(good)));
      fs.renameSync(path + '.x', path);
      const broken = await run(['sh', '-c', 'exit 5'], { memory });
      await engine.prepare({ memory });
      const then = await run(['sh', '-c', 'exit 6'], { memory });
      results[what] = { broken: broken.from + broken.exitCode, then: then.from + then.exitCode };
    }
    console.log(JSON.stringify(results));`);
  expect(Object.keys(found)).toHaveLength(7);
  for (const [what, { broken, then }] of Object.entries(found)) {
    expect({ what, broken, then }).toEqual({ what, broken: 'refused5', then: 'template6' });
  }
});

test('two engines that make one template leave one, and a killed one leaves nothing that is used', async () => {
  const found = await inside<{ after: string[]; killed: string; then: string; left: string[] }>(`
    const shape = { memory: '5g' };
    const before = templates();
    await Promise.all([engine.prepare(shape), new Engine().prepare(shape)]);
    const after = templates().filter((name) => !before.includes(name));
    const other = { memory: '17g' };
    const making = engine.prepare(other).catch(() => {});
    for (;;) {
      const vmms = execFileSync('sh', ['-c', 'grep -lsx clearvm-builder /proc/[0-9]*/comm || true']).toString().trim().split('\\n').filter(Boolean);
      if (templates().some((name) => name.endsWith('.new')) && vmms.length > 0) {
        for (const vmm of vmms) try { process.kill(Number(vmm.split('/')[2]), 'SIGKILL'); } catch {}
        break;
      }
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    await making;
    const killed = (await run(['true'], { ...other, template: true })).from;
    await engine.prepare(other);
    const then = (await run(['true'], other)).from;
    console.log(JSON.stringify({ after, killed, then, left: templates().filter((name) => !name.endsWith('.vm')) }));`);
  expect(found.after).toHaveLength(1);
  expect(found.killed).toBe('missing');
  expect(found.then).toBe('template');
  expect(found.left).toEqual([]);
});

test('what a fork writes is no other one’s', async () => {
  const outputs = await inside<string[]>(`
    await engine.prepare();
    const outputs = [];
    for (let i = 0; i < 3; i++) {
      outputs.push((await run(['sh', '-c', 'ls /tmp /dev/shm; cat /proc/sys/kernel/hostname; echo x > /tmp/f; echo x > /dev/shm/f; echo ' + i], { hostname: 'h' + i })).stdout);
    }
    console.log(JSON.stringify(outputs));`);
  expect(new Set(outputs.map((text) => text.replace(/h?\d/g, '')))).toHaveLength(1);
  expect(outputs[2]).toContain('h2');
});

test('an idle container seldom wakes the host', async () => {
  const SECONDS = 20;
  const { stdout, stderr } = await host.shell(`
    clearvm run -d --name idle ${IMAGE} sleep 1000 > /dev/null
    switches() { cat /proc/$(clearvm inspect -f '{{.State.Pid}}' idle)/task/*/status | awk '/^voluntary/ { sum += $2 } END { print sum }'; }
    sleep 10; before=$(switches); sleep ${SECONDS}; echo $(($(switches) - before)); clearvm rm -f idle`);
  expect(stderr).toBe('');
  const [wakeups = '', name] = stdout.split('\n');
  expect(name).toBe('idle');
  // One a second; the kernel's watchdogs, which are off, would be four more.
  expect(Number(wakeups)).toBeLessThan(2.5 * SECONDS);
});
