// Volumes, and what a container may do and has: options of run and create, seen from inside.
import { afterAll, beforeAll, expect, test } from 'vitest';

import { IMAGE, ROOT, startHost, type Host } from './support.js';

let host: Host;
beforeAll(async () => {
  host = await startHost();
});
afterAll(() => host?.close());

async function ok(script: string): Promise<string> {
  const { status, stdout, stderr } = await host.shell(script);
  expect(stderr).toBe('');
  expect(status).toBe(0);
  return stdout.trimEnd();
}

test('a named volume is filled from the image, kept, shared, and refused to go while it is used', async () => {
  const before = await host.traces();
  const listed = await ok(`clearvm run --rm ${IMAGE} ls /etc`);
  await ok(
    `clearvm create --name one -v data:/etc -v /anonymous ${IMAGE} sh -c 'echo kept > /etc/new; ls /anonymous'`,
  );
  expect(await ok('clearvm start -a one')).toBe('');
  const seen = await ok(
    `clearvm run --rm -v data:/other:ro ${IMAGE} sh -c 'cat /other/new; rm /other/new; ls /other' 2>/dev/null`,
  );
  // What init puts over the image's files is not in the volume.
  for (const name of ['kept', 'new', 'passwd']) expect(seen.split('\n')).toContain(name);
  expect(listed).toContain('passwd');
  expect(await ok('clearvm volume ls -q | wc -l')).toBe('2');
  const refused = await host.shell('clearvm volume rm data');
  expect(refused).toMatchObject({ status: 1, stdout: '' });
  expect(refused.stderr).toMatch(/volume is in use/);
  expect(await ok('clearvm rm -v one; clearvm volume ls -q; clearvm volume rm data')).toBe(
    'one\ndata\ndata',
  );
  await host.shell(`rmdir ${ROOT}/volumes`);
  expect(await host.traces()).toBe(before);
});

test('--read-only --tmpfs --shm-size --add-host --ulimit --group-add --cap-drop', async () => {
  const script = `touch /x 2>/dev/null || echo read-only
    touch /scratch/x && echo scratch
    df -k /dev/shm | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2
    grep -o '10.1.2.3.*' /etc/hosts
    ulimit -n; id -G
    grep CapEff /proc/self/status
    chown 1 /scratch/x 2>/dev/null || echo no chown`;
  const out = await ok(
    `clearvm run --rm --read-only --tmpfs /scratch:size=1m --shm-size 2m --add-host db:10.1.2.3 --ulimit nofile=77:88 \\
      --group-add 4242 --cap-drop ALL --cap-add KILL ${IMAGE} sh -c '${script.replaceAll("'", `'\\''`)}'`,
  );
  const lines = out.split('\n').map((line) => line.replaceAll('\t', ' '));
  expect(lines.slice(0, 5)).toEqual(['read-only', 'scratch', '2048', '10.1.2.3 db', '77']);
  expect(lines[5]?.split(' ')).toContain('4242');
  expect(lines.slice(6)).toEqual(['CapEff: 0000000000000020', 'no chown']);
});

test('health checks are run with no client there: in ps, inspect and events', async () => {
  const until = (name: string, health: string): string =>
    `until clearvm ps -a --filter name=${name} --format '{{.Status}}' | grep -q '(${health})'; do sleep 0.1; done`;
  const options = '--health-interval 200ms --health-retries 2';
  expect(
    await ok(`
      start=$(date +%s.%N)
      clearvm run -d --name well ${options} --health-cmd 'echo checked; test ! -e /ill' ${IMAGE} sleep 1000 > /dev/null
      ${until('well', 'healthy')}
      clearvm inspect -f '{{json .State.Health}}' well | grep -oE '"Status":"healthy","FailingStreak":0|"ExitCode":0,"Output":"checked.n"' | sort -u
      clearvm exec well touch /ill; ${until('well', 'unhealthy')}
      clearvm ps -q --filter health=unhealthy | wc -l; clearvm pause well; clearvm unpause well; clearvm exec well rm /ill
      ${until('well', 'healthy')}
      clearvm events --since $start --until 0s --filter event=health_status --format '{{.Action}}'
      clearvm create --no-healthcheck ${IMAGE} true > /tmp/none; clearvm inspect -f '{{json .Config}}' $(cat /tmp/none) | grep -c Healthcheck || :
      clearvm rm -f well $(cat /tmp/none) > /dev/null`),
  ).toBe(
    [
      ...[
        '"ExitCode":0,"Output":"checked\\n"',
        '"Status":"healthy","FailingStreak":0',
        '1',
        'well',
        'well',
      ],
      ...['health_status: healthy', 'health_status: unhealthy', 'health_status: healthy', '0'],
    ].join('\n'),
  );
});

test("an image's VOLUME, system df, stats --format, update", async () => {
  const before = await host.traces();
  expect(
    await ok(`
      clearvm run --name maker ${IMAGE} sh -c 'mkdir /data; echo of-image > /data/file'
      clearvm commit -c 'VOLUME /data /more' maker kept:1 > /dev/null; clearvm rm maker > /dev/null
      clearvm create --name one kept:1 sh -c 'cat /data/file; echo more >> /data/file; grep -c " /data 9p" /proc/mounts' > /dev/null
      clearvm start -a one; clearvm start -a one
      clearvm system df | grep -oE '^(Local Volumes|Build Cache) +[0-9]+ +[0-9]+' | tr -s ' '
      clearvm run --rm kept:1 cat /data/file; clearvm volume ls -q | wc -l
      clearvm update -m 128m --cpus 2 one; clearvm inspect -f '{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}' one
      clearvm rm -v one; clearvm volume ls -q | wc -l; clearvm rmi kept:1 > /dev/null
      clearvm run -d --name two ${IMAGE} sleep 1000 > /dev/null
      clearvm stats --no-stream --format '{{.Name}} {{.PIDs}}' two
      clearvm update -m 1g two 2>&1 | grep -o 'stop it first'; clearvm update --pids-limit 5 two 2>&1 | grep -o 'pids-limit is not supported'
      clearvm rm -f two`),
  ).toBe(
    [
      ...[
        'of-image',
        '1',
        'of-image',
        'more',
        '1',
        'Local Volumes 2 2',
        'Build Cache 0 0',
        'of-image',
        '2',
      ],
      ...['one', `${128 * 1024 * 1024} 2000000000`, 'one', '0', 'two 1'],
      ...['stop it first', 'pids-limit is not supported', 'two'],
    ].join('\n'),
  );
  await host.shell(`rmdir ${ROOT}/volumes`);
  expect(await host.traces()).toBe(before);
});

test('--cpuset-cpus: the VM runs on these processors, if they are there', async () => {
  expect(
    await ok(`
      clearvm run -d --name pinned --cpuset-cpus 0-0,0 ${IMAGE} sleep 1000 >/dev/null
      clearvm inspect -f '{{.HostConfig.CpusetCpus}}' pinned
      grep -h Cpus_allowed_list /proc/$(pgrep -x clearvm-vmm)/task/*/status | sort -u | tr -d '\\t'
      clearvm rm -f pinned`),
  ).toBe('0-0,0\nCpus_allowed_list:0\npinned');
  const before = await host.traces();
  for (const [list, why] of [
    ['0,700', /--cpuset-cpus 0,700: some of these processors are not there/],
    ['5000', /must be processors, as in 0-3,7/],
    ['one', /cpusetCpus/],
  ] as const) {
    const refused = await host.shell(`clearvm run --rm --cpuset-cpus ${list} ${IMAGE} true`);
    expect(refused).toMatchObject({ status: 125, stdout: '' });
    expect(refused.stderr).toMatch(why);
  }
  expect(await host.traces()).toBe(before);
});

test('--cpus with a fraction: so much of the host is used, and no more', async () => {
  // In clock ticks of 10 ms: what the VMM has used in ten seconds of a command that never rests.
  const used = async (): Promise<number> => {
    const [before = 0, after = 0] = (
      await ok(`
        vmm=$(clearvm inspect -f '{{.State.Pid}}' half)
        for second in 0 10; do sleep $second; awk '{ print $14 + $15 }' /proc/$vmm/stat; done`)
    )
      .split('\n')
      .map(Number);
    return after - before;
  };
  // A stall of this machine's may spoil one look.
  const within = (least: number, most: number) =>
    expect
      .poll(used, { timeout: 120_000 })
      .toSatisfy((ticks: number) => ticks > least && ticks < most);
  await ok(`
    clearvm run -d --name half --cpus 0.5 ${IMAGE} sh -c 'while :; do :; done' >/dev/null
    clearvm exec half true`);
  expect(await ok(`clearvm inspect -f '{{.HostConfig.NanoCpus}}' half`)).toBe('500000000');
  await within(250, 600);
  await ok(`
    clearvm pause half; sleep 0.3; clearvm unpause half; clearvm exec half true
    clearvm stop -t 0 half; clearvm update --cpus 0.2 half; clearvm start half; clearvm exec half nproc`);
  await within(100, 250);
  expect(await ok('clearvm rm -f half')).toBe('half');
});

test('--pids-limit: of the command and of those that exec starts', async () => {
  // A shell has the limit alone; two sleeps beside it are one too many.
  const script = 'sleep 1000 & sleep 1000 & wait';
  const refused = await host.shell(`clearvm run --rm --pids-limit 2 ${IMAGE} sh -c '${script}'`);
  expect(refused.status).not.toBe(0);
  expect(refused.stderr).toMatch(/can't fork: Resource temporarily unavailable/);
  expect(
    await ok(`
      clearvm run -d --name few --pids-limit 2 ${IMAGE} sleep 1000 >/dev/null
      clearvm inspect -f '{{.HostConfig.PidsLimit}}' few
      clearvm exec few sh -c 'echo one more'
      clearvm exec few sh -c '(echo and one) 2>/dev/null; :' 2>/dev/null || echo 'no other'
      clearvm rm -f few
      clearvm run --rm --pids-limit -1 ${IMAGE} sh -c 'sleep 0 & sleep 0 & wait; echo any number'`),
  ).toBe('2\none more\nno other\nfew\nany number');
});

test('--oom-score-adj: of the command and of those that exec starts, and not of init', async () => {
  expect(
    await ok(`
      clearvm run -d --name first --oom-score-adj -500 ${IMAGE} sleep 1000 >/dev/null
      clearvm inspect -f '{{.HostConfig.OomScoreAdj}}' first
      clearvm exec first sh -c 'cat /proc/self/oom_score_adj /proc/1/oom_score_adj'
      clearvm rm -f first`),
  ).toBe('-500\n-500\n0\nfirst');
  const refused = await host.shell(`clearvm run --rm --oom-score-adj 1001 ${IMAGE} true`);
  expect(refused).toMatchObject({ status: 125, stdout: '' });
  expect(refused.stderr).toMatch(/oomScoreAdj/);
});

test('the primary group is among the supplementary ones', async () => {
  expect(await ok(`clearvm run --rm -u 1000:1001 ${IMAGE} id`)).toBe(
    'uid=1000 gid=1001 groups=1001',
  );
});

test('system prune: what does not run, and what nobody uses', async () => {
  await ok(`
    clearvm run -d --name stays -v kept:/kept -v /own ${IMAGE} sleep 1000 >/dev/null
    clearvm run --name ended -v named:/named -v /own ${IMAGE} sh -c 'head -c 5000 /dev/zero > /f'
    clearvm create --name labelled -l keep=no ${IMAGE} true >/dev/null
    echo unnamed > /tmp/unnamed; tar -C /tmp -cf /tmp/unnamed.tar unnamed
    clearvm import /tmp/unnamed.tar unnamed:1 >/dev/null; clearvm import /tmp/unnamed.tar unnamed:2 >/dev/null`);
  const names = 'clearvm ps -a --format {{.Names}}';
  expect(await ok(`echo n | clearvm system prune; ${names}`)).toBe(
    `WARNING! This will remove:
  - all stopped containers
  - all dangling images

Are you sure you want to continue? [y/N] labelled\nended\nstays`,
  );
  expect(await ok(`clearvm system prune -f --filter until=1h`)).toBe('Total reclaimed space: 0B');
  expect(await ok(`clearvm system prune -f --filter label=keep=no | wc -l; ${names}`)).toBe(
    '4\nended\nstays',
  );
  expect(await ok(`clearvm volume ls -q | wc -l`)).toBe('4');
  const pruned = await ok(`clearvm system prune -f --volumes --all`);
  expect(pruned).toMatch(
    /^Deleted Containers:\n[0-9a-f]{64}\n\nDeleted Volumes:\n[0-9a-f]{64}\n\nDeleted Images:\nuntagged: .*\n(.*\n)+\nTotal reclaimed space: [\d.]+kB$/,
  );
  expect(
    await ok(`
      ${names}; clearvm volume ls -q | grep -c .; clearvm volume ls -q | grep -v '^.\\{64\\}$'
      clearvm images -q | wc -l; clearvm exec stays echo runs; clearvm rm -fv stays`),
  ).toBe('stays\n3\nkept\nnamed\n1\nruns\nstays');
});
