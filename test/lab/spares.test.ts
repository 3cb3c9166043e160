// VMs that are forked before anybody asks for them (Engine.prepare's `spares`): the same to those inside, and gone with their engine.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { IMAGE, PROJECT, startHost, type Host, type InsideRun as Run } from './support.js';

let host: Host;
beforeAll(async () => {
  host = await startHost();
});
afterAll(() => host?.close());

/** For `Host.inside`: spares that wait, by process id; and a wait until there are so many. */
const SPARES = `
  const spares = () => fs.readdirSync('/proc').filter((name) => {
    try { return /^\\d+$/.test(name) && fs.readFileSync('/proc/' + name + '/comm', 'utf8') === 'clearvm-spare\\n'; } catch { return false; }
  });
  const until = async (count) => { while (spares().length !== count) await new Promise((resolve) => setTimeout(resolve, 10)); };`;
const inside = <T>(script: string): Promise<T> => host.inside<T>(SPARES + script);

describe('a container from a spare', () => {
  const script = `
    echo out; echo err >&2; cat; pwd; id; hostname; cat /etc/hosts; cat /proc/cpuinfo | grep -c ^processor
    ls -l /dev | sed 's/ [A-Z][a-z]* *[0-9]* [0-9:]*//'; cut -d' ' -f2,3 /proc/mounts; ls -a /; ulimit -n; env | sort; cat /vol/a; echo b > /vol/b
    grep ^Cap /proc/self/status; free -k | awk '/^Mem/ { print int($2 / 4096) }'; exit 7`;
  test('is what a forked one is', async () => {
    const [spare, forked, threads] = await inside<[Run, Run, string]>(`
      fs.mkdirSync('/tmp/v', { recursive: true }); fs.writeFileSync('/tmp/v/a', 'in a\\n'); fs.writeFileSync('/tmp/in', 'in\\n');
      const shape = { memory: '200m', cpus: 2, volumes: ['/tmp/v:/vol'] };
      const options = { ...shape, hostname: 'box', workdir: '/home/x', env: ['A=1'] };
      const results = [];
      for (const spares of [1, 0]) {
        await engine.prepare({ ...shape, spares });
        await until(spares);
        const stdin = fs.openSync('/tmp/in', 'r');
        results.push(await run(['sh', '-c', ${JSON.stringify(script)}], { ...options, stdin }));
      }
      await engine.prepare({ ...shape, spares: 1 });
      await until(1);
      const container = await engine.run('${IMAGE}', { cmd: ['sleep', '1000'], ...options });
      // Of each thread: system calls that are filtered, capabilities, and what it takes for /.
      const of = (task) => /^Seccomp:\\s+\\d$/m.exec(fs.readFileSync(task + '/status', 'utf8'))[0] + ' ' +
        (BigInt('0x' + /^CapEff:\\s+(\\w+)$/m.exec(fs.readFileSync(task + '/status', 'utf8'))[1]) & (1n << 21n)) + ' ' + fs.readdirSync(task + '/root');
      const tasks = '/proc/' + container.vmmPid + '/task/';
      results.push(fs.readdirSync(tasks).map((task) => of(tasks + task)).join('\\n'));
      await container.stop({ timeout: 0 });
      console.log(JSON.stringify(results));`);
    expect(spare?.from).toBe('spare');
    expect(forked?.from).toBe('template');
    expect(spare?.exitCode).toBe(7);
    expect({ ...spare, from: '' }).toEqual({ ...forked, from: '' });
    // No CAP_SYS_ADMIN, and nothing of the host's.
    expect(new Set(threads.split('\n'))).toEqual(new Set(['Seccomp:\t2 0 overlay0']));
  });

  test('knows nothing of the time that it has waited, and has nothing random in common with another', async () => {
    const runs = await inside<(Run & { before: number; after: number })[]>(`
      await engine.prepare({ cpus: 2, spares: 3 });
      await until(3);
      await new Promise((resolve) => setTimeout(resolve, 30000));
      const uptimes = 'for cpu in 1 2; do taskset $cpu cut -d. -f1 /proc/uptime; done;';
      const cmd = ['sh', '-c', 'date +%s; ' + uptimes + 'cat /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid; ' +
        'head -c 16 /dev/urandom | hexdump -e \\'16/1 "%02x" "\\\\n"\\'; head -c 16 /dev/random | hexdump -e \\'16/1 "%02x" "\\\\n"\\'; ' +
        'od -A n -t x8 -v /proc/self/auxv | tr -d "\\\\n"; echo; mktemp -u'];
      const runs = [];
      for (let i = 0; i < 3; i++) {
        const before = Date.now();
        runs.push({ ...(await run(cmd, { cpus: 2 })), before, after: Date.now() });
      }
      console.log(JSON.stringify(runs));`);
    const lines = runs.map(({ stdout }) => stdout.trim().split('\n'));
    for (const [index, { from, stderr, before, after }] of runs.entries()) {
      expect({ from, stderr }).toEqual({ from: 'spare', stderr: '' });
      const [time, ...uptimes] = (lines[index] ?? []).slice(0, 3).map(Number) as [
        number,
        number,
        number,
      ];
      expect(time).toBeGreaterThanOrEqual(Math.floor(before / 1000));
      expect(time).toBeLessThanOrEqual(Math.floor(after / 1000));
      for (const uptime of uptimes) expect(uptime).toBeLessThan(20);
    }
    expect(lines[0]).toHaveLength(9);
    for (let i = 3; i < 9; i++) expect(new Set(lines.map((all) => all[i])).size).toBe(runs.length);
  });

  test('that cannot start its command says so, and leaves nothing', async () => {
    const before = await host.traces();
    const found = await inside<{ code: string; exitCode: number; left: number }>(`
      await engine.prepare({ spares: 1 });
      await until(1);
      const error = await engine.run('${IMAGE}', { cmd: ['/no/such'] }).catch((error) => error);
      await engine.prepare({ spares: 0 });
      await until(0);
      console.log(JSON.stringify({ code: error.code, exitCode: error.exitCode, left: spares().length }));`);
    expect(found).toEqual({ code: 'ERR_PROCESS_START', exitCode: 127, left: 0 });
    expect(await host.traces()).toBe(before);
  });
});

test('a used spare is replaced; another shape, and certain processors, go without', async () => {
  const found = await inside<Record<string, string>>(`
    await engine.prepare({ memory: '100m', spares: 1 });
    await until(1);
    const from = async (options) => (await run(['true'], options)).from;
    const found = { first: await from({ memory: '100m' }) };
    await until(1);
    found.second = await from({ memory: '100m' });
    await until(1);
    found.larger = await from({ memory: '101m' });
    found.pinned = await from({ memory: '100m', cpusetCpus: '0' });
    found.booted = await from({ memory: '100m', template: false });
    found.third = await from({ memory: '100m' });
    console.log(JSON.stringify(found));`);
  expect(found).toEqual({
    first: 'spare',
    second: 'spare',
    larger: 'template',
    pinned: 'template',
    booted: 'kernel',
    third: 'spare',
  });
});

test('a volume that was mounted after a spare was made is there', async () => {
  const found = await inside<Run[]>(`
    fs.mkdirSync('/tmp/late', { recursive: true });
    const options = { volumes: ['/tmp/late:/late'] };
    await engine.prepare({ ...options, spares: 1 });
    await until(1);
    execFileSync('mount', ['-t', 'tmpfs', 'late', '/tmp/late']);
    fs.writeFileSync('/tmp/late/file', 'here');
    const runs = [await run(['cat', '/late/file'], options)];
    await until(1);
    runs.push(await run(['cat', '/late/file'], options));
    await engine.prepare({ ...options, spares: 0 });
    execFileSync('umount', ['/tmp/late']);
    execFileSync('mount', ['-t', 'tmpfs', 'later', '/tmp/late']);
    fs.writeFileSync('/tmp/late/file', 'later');
    await engine.prepare({ ...options, spares: 1 });
    await until(1);
    runs.push(await run(['cat', '/late/file'], options));
    execFileSync('umount', ['/tmp/late']);
    console.log(JSON.stringify(runs));`);
  const [first, second, third] = found;
  expect(first).toMatchObject({ from: 'template', exitCode: 0, stdout: 'here' });
  expect(second).toMatchObject({ from: 'spare', exitCode: 0, stdout: 'here' });
  expect(third).toMatchObject({ from: 'spare', exitCode: 0, stdout: 'later' });
});

test('a spare that was killed is missed by nobody, and replaced', async () => {
  const found = await inside<number[]>(`
    await engine.prepare({ spares: 2 });
    const found = [];
    for (let round = 0; round < 4; round++) {
      await until(2);
      // Those that end sooner are replaced after the next start only.
      await new Promise((resolve) => setTimeout(resolve, 1100));
      const killed = spares();
      for (const pid of killed) process.kill(Number(pid), 'SIGKILL');
      while (spares().some((pid) => killed.includes(pid))) await new Promise((resolve) => setTimeout(resolve, 5));
      found.push((await run(['sh', '-c', 'exit 3'])).exitCode);
    }
    console.log(JSON.stringify(found));`);
  expect(found).toEqual(Array(4).fill(3));
});

test('spares end with their process, which does not wait for them', async () => {
  const { stdout, stderr } = await host.shell(`
    cat > /tmp/keeper.mjs <<'END'
      import { Engine } from '${PROJECT}/dist/index.js';
      await new Engine().prepare({ spares: 2 });
      if (process.argv[2] === 'stay') setInterval(() => {}, 1000);
END
    count() { grep -lsx clearvm-spare /proc/[0-9]*/comm | wc -l; }
    await() { while [ $(count) != $1 ]; do sleep 0.05; done; }
    ${process.execPath} /tmp/keeper.mjs; echo ended $?; await 0
    ${process.execPath} /tmp/keeper.mjs stay & await 2; kill -KILL $!; wait $! 2> /dev/null; await 0; echo none`);
  expect({ stdout, stderr }).toEqual({ stdout: 'ended 0\nnone\n', stderr: '' });
});

test('a number of spares that makes no sense is refused', async () => {
  const found = await inside<string[]>(`
    const found = [];
    for (const spares of [-1, 1.5, 1001, '2', NaN]) found.push((await engine.prepare({ spares }).catch((error) => error)).code);
    console.log(JSON.stringify(found));`);
  expect(found).toEqual(Array(5).fill('ERR_RUN_OPTIONS'));
});
