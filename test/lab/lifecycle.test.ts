// Containers that are kept: run -d, start, stop, logs, restarts, and what is true after a kill -9.
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';

import { IMAGE, ROOT, RUNTIME, startHost, type Host, type Outcome } from './support.js';

let host: Host;
beforeAll(async () => {
  host = await startHost();
});
afterAll(() => host?.close());

/** A command that must succeed; its output without the last line end. */
async function ok(script: string): Promise<string> {
  const { status, stdout, stderr } = await host.shell(script);
  expect(stderr).toBe('');
  expect(status).toBe(0);
  return stdout.trimEnd();
}

const status = (name: string): Promise<string> =>
  ok(`clearvm ps -a --filter name='^${name}$' --format '{{.State}} {{.Status}}'`);

/** Waits until a shell condition holds; the test's own limit ends the wait. */
const until = (condition: string): Promise<Outcome> =>
  host.shell(`until ${condition}; do sleep 0.1; done`);

/** The path of a container's file. */
const fileOf = (name: string, file: string): string =>
  `${ROOT}/containers/$(readlink ${ROOT}/names/${name})/${file}`;

/** Waits until a container has printed a text. */
const untilLog = (name: string, text: string): Promise<Outcome> =>
  until(`grep -q '${text}' ${fileOf(name, '*-json.log')}`);

/** A process id out of a container's state. */
const pidOf = async (name: string, who: 'monitor' | 'vmm'): Promise<number> => {
  const state = JSON.parse(await ok(`cat ${fileOf(name, 'state.json')}`)) as Record<
    'monitor' | 'vmm',
    { pid: number }
  >;
  return state[who].pid;
};

describe('a life', () => {
  test('run -d, ps, logs, stop, start, rm: the writable layer is kept until then', async () => {
    const before = await host.traces();
    const script =
      'n=$(cat /n 2>/dev/null || echo 0); echo $((n+1)) > /n; echo run $n; echo err >&2; trap "echo bye; exit 3" TERM; while :; do sleep 0.1; done';
    const id = await ok(
      `clearvm run -d --name web --label a=b --cidfile /tmp/cid ${IMAGE} sh -c '${script}'`,
    );
    expect(id).toMatch(/^[0-9a-f]{64}$/);
    expect(await ok('cat /tmp/cid; rm /tmp/cid')).toBe(id);
    expect(
      await ok(`clearvm ps --format '{{.ID}} {{.Image}} {{.Names}} {{.State}} {{.Labels}}'`),
    ).toBe(`${id.slice(0, 12)} ${IMAGE} web running a=b`);
    await untilLog('web', 'err');
    const logs = await host.shell('clearvm logs web');
    expect(logs).toEqual({ status: 0, stdout: 'run 0\n', stderr: 'err\n' });
    expect(await ok(`clearvm stop -t 100 ${id.slice(0, 5)}`)).toBe(id.slice(0, 5));
    expect(await status('web')).toMatch(/^exited Exited \(3\) .* ago$/);
    expect(await ok('clearvm wait web')).toBe('3');
    expect(await ok('clearvm start web')).toBe('web');
    await untilLog('web', 'run 1');
    const refused = await host.shell('clearvm rm web');
    expect(refused.status).toBe(1);
    expect(refused.stderr).toMatch(/You cannot remove a running container/);
    expect(await ok('clearvm kill web')).toBe('web');
    expect(await status('web')).toMatch(/^exited Exited \(137\)/);
    // So are images of containers that do not run.
    expect((await host.shell(`clearvm rmi ${IMAGE}`)).status).toBe(1);
    expect(await ok('clearvm rename web old; clearvm rm old')).toBe('old');
    expect(await host.traces()).toBe(before);
    expect((await host.shell('clearvm stop web')).stderr).toBe('clearvm: No such container: web\n');
  });

  test('create and start -a: its output, and its exit status', async () => {
    await ok(`clearvm create --name job -i ${IMAGE} sh -c 'cat; echo err >&2; exit 7'`);
    expect(await status('job')).toBe('created Created');
    expect(await host.shell('echo input | clearvm start -a -i job')).toEqual({
      ...{ status: 7, stdout: 'input\n', stderr: 'err\n' },
    });
    expect(await status('job')).toMatch(/^exited Exited \(7\)/);
    expect(await ok('clearvm rm job')).toBe('job');
  });

  test('20 MB come through an attached start unchanged', async () => {
    const script = 'yes | head -c 20000000';
    await ok(`clearvm create --name bulk --log-driver none ${IMAGE} sh -c '${script}'`);
    const sums = await ok(
      `clearvm start -a bulk | sha256sum; ${script} | sha256sum; clearvm rm bulk`,
    );
    const [ours, theirs] = sums.split('\n');
    expect(ours).toBe(theirs);
  });

  test('a command that is not there: 127, and the container is left as it was made', async () => {
    const { status: code, stderr } = await host.shell(`clearvm run -d --name none ${IMAGE} nosuch`);
    expect(code).toBe(127);
    expect(stderr).toMatch(/nosuch/);
    expect(await status('none')).toBe('created Created');
    await ok('clearvm rm none');
    // With --rm, nothing is.
    expect((await host.shell(`clearvm run -d --rm --name none ${IMAGE} nosuch`)).status).toBe(127);
    expect(await status('none')).toBe('');
  });

  test('logs -f ends with the container; logs are rotated', async () => {
    const script = 'for i in $(seq 200); do echo line $i; done; sleep 1; echo last';
    await ok(
      `clearvm run -d --name talk --log-opt max-size=4k --log-opt max-file=3 ${IMAGE} sh -c '${script}'`,
    );
    const followed = await ok('clearvm logs -f --tail 1 talk');
    expect(followed.split('\n').at(-1)).toBe('last');
    expect(await ok(`ls ${fileOf('talk', '')} | grep -c json.log`)).toBe('3');
    expect(await ok('clearvm logs --tail 2 talk')).toBe('line 200\nlast');
    await ok('clearvm rm talk');
  });

  test('rm waits for who is starting or removing it', async () => {
    const id = await ok(`clearvm create --name held ${IMAGE} true`);
    await ok(`mkdir -p ${RUNTIME}/${id}; flock ${RUNTIME}/${id}/lock sh -c 'touch /tmp/held; sleep 4' > /dev/null &
      until [ -e /tmp/held ]; do sleep 0.1; done`);
    expect(await ok(`clearvm rm held; ls ${RUNTIME} | grep ${id} || echo removed`)).toBe(
      'held\nremoved',
    );
  });

  test('--rm removes everything when it ends, with nobody there', async () => {
    const before = await host.traces();
    await ok(`clearvm run -d --rm --name brief ${IMAGE} sleep 1`);
    await until(`! test -e ${ROOT}/names/brief && ! grep -lsx clearvm-monitor /proc/[0-9]*/comm`);
    expect(await host.traces()).toBe(before);
  });
});

describe('run without -d and --rm', () => {
  test('its streams and its status are those of the command line, and it is kept, with its log', async () => {
    const before = await host.traces();
    const script = 'cat; echo err >&2; echo kept > /kept; exit 7';
    expect(
      await host.shell(`echo input | clearvm run -i --name fore ${IMAGE} sh -c '${script}'`),
    ).toEqual({
      ...{ status: 7, stdout: 'input\n', stderr: 'err\n' },
    });
    expect(await status('fore')).toMatch(/^exited Exited \(7\)/);
    expect(await ok('clearvm logs fore 2>&1')).toBe('input\nerr');
    expect(await ok(`cat ${fileOf('fore', 'upper/kept')}; clearvm rm fore`)).toBe('kept\nfore');
    expect(await host.traces()).toBe(before);
  });

  test('a command that is not there: 127, one line, and a container that was never started', async () => {
    const {
      status: code,
      stdout,
      stderr,
    } = await host.shell(`clearvm run --name none ${IMAGE} nosuch`);
    expect([code, stdout]).toEqual([127, '']);
    expect(stderr).toMatch(/^clearvm: .*nosuch.*\n$/);
    expect(await status('none')).toBe('created Created');
    await ok('clearvm rm none');
  });

  test('signals reach the command; a client that is killed leaves it running', async () => {
    const { output, result, signal } = host.start([
      ...['run', '--name', 'fore', IMAGE, 'sh', '-c'],
      'trap "echo got TERM" TERM; trap "echo got INT; exit 3" INT; echo ready; while :; do sleep 0.1; done',
    ]);
    await output.until('ready');
    await signal('TERM');
    await output.until('got TERM');
    await signal('KILL');
    await result;
    expect(await status('fore')).toMatch(/^running/);
    await ok('clearvm kill -s INT fore');
    expect(await ok('clearvm wait fore; clearvm logs --tail 1 fore; clearvm rm fore')).toBe(
      '3\ngot INT\nfore',
    );
  });

  test('a reader that goes away ends the command line; the container goes on', async () => {
    const { status: code, stdout } = await host.shell(
      `clearvm run --log-driver none --name fore ${IMAGE} yes | head -n 1; exit "\${PIPESTATUS[0]}"`,
    );
    expect([code, stdout]).toEqual([128 + 13, 'y\n']);
    expect(await status('fore')).toMatch(/^running/);
    await ok('clearvm rm -f fore');
  });

  test('with a restart policy it returns at the first end', async () => {
    const { status: code, stdout } = await host.shell(
      `clearvm run --name fore --restart always ${IMAGE} sh -c 'echo once; exit 5'`,
    );
    expect([code, stdout]).toEqual([5, 'once\n']);
    // Also while it waits for its next start.
    expect(await ok('clearvm rm -f fore')).toBe('fore');
  });

  test('--rm --cidfile: the id is told, and nothing is left', async () => {
    const before = await host.traces();
    expect(
      await ok(`clearvm run --rm --cidfile /tmp/cid ${IMAGE} echo out; wc -c < /tmp/cid`),
    ).toBe('out\n64');
    expect(await host.traces()).toBe(before);
    const again = await host.shell(`clearvm run --rm --cidfile /tmp/cid ${IMAGE} true`);
    expect(again).toMatchObject({ status: 125, stdout: '' });
    expect(again.stderr).toMatch(/Container ID file found/);
    await ok('rm /tmp/cid');
  });
});

describe('terminals', () => {
  afterEach(async () => {
    await host.clearvm(['rm', '-f', 'term']);
  });

  const resized = 'until [ "$(stty size)" = "40 133" ]; do sleep 0.1; done; echo resi""zed\n';

  test('run -it: size, detach keys; attach: another size, an editor, and the exit status', async () => {
    const first = await host.atTerminal(
      ['run', '-it', '--name', 'term', IMAGE, 'sh'],
      [
        ['wait', '# '],
        ['type', 'tty; echo $TERM; stty size\n'],
        ['wait', '/dev/pts/0\r\nxterm\r\n24 80\r\n'],
        ['size', 40, 133],
        ['type', resized],
        ['wait', 'resized'],
        ['wait', '# '],
        // Ctrl-C is a byte, and the job's.
        ['type', 'sh -c \'echo on""e; exec sleep 1000\'\n'],
        ['wait', 'one\r\n'],
        ['type', '\x03'],
        ['wait', '# '],
        ['type', '\x10\x11'],
        ['end'],
      ],
    );
    expect(first).toMatchObject({ failure: null, status: 0, restored: true });
    expect(first.output).toMatch(/read escape sequence\r\n$/);
    expect(await status('term')).toMatch(/^running/);
    const second = await host.atTerminal(
      ['attach', '--detach-keys', 'ctrl-x,x', 'term'],
      [
        ['size', 40, 133],
        ['type', resized],
        ['wait', 'resized'],
        ['wait', '# '],
        // Its status line, which says `-` as long as nothing is inserted; what is typed before it may be lost.
        ['type', 'vi /notes\n'],
        ['wait', '- /notes'],
        ['type', 'ifirst line\rsecond'],
        ['wait', 'second'],
        ['type', '\x1b'],
        ['wait', '- /notes'],
        ['type', ':wq\r'],
        ['wait', '# '],
        ['type', 'exit 4\n'],
        ['end'],
      ],
    );
    expect(second).toMatchObject({ failure: null, status: 4, restored: true });
    expect(await ok(`cat ${fileOf('term', 'upper/notes')}`)).toBe('first line\nsecond');
    expect(await status('term')).toMatch(/^exited Exited \(4\)/);
    // Its terminal is new; it has not the old one's size.
    const third = await host.atTerminal(
      ['start', '-a', '-i', 'term'],
      [
        ['wait', '# '],
        ['type', resized.replace('40 133', '24 80')],
        ['wait', 'resized'],
        ['type', 'exit 5\n'],
        ['end'],
      ],
    );
    expect(third).toMatchObject({ failure: null, status: 5, restored: true });
    await ok('clearvm rm term');
  });

  test('run -dit waits for who attaches; a client that is told to end gives its terminal back', async () => {
    await ok(`clearvm run -dit --name term ${IMAGE} sh -c 'read x; echo got $x; exec sleep 1000'`);
    const session = await host.atTerminal(
      ['attach', 'term'],
      [['type', 'word\n'], ['wait', 'got word'], ['signal', 'SIGTERM'], ['end']],
    );
    expect(session).toMatchObject({ failure: null, status: -15, restored: true });
    expect(await status('term')).toMatch(/^running/);
    await ok('clearvm rm -f term');
  });
});

describe('restart policies', () => {
  test('on-failure:2 gives up after the second restart', async () => {
    await ok(`clearvm run -d --name fail --restart on-failure:2 ${IMAGE} sh -c 'echo try; exit 4'`);
    await until(`grep -q exited ${fileOf('fail', 'state.json')}`);
    expect(await ok('clearvm logs fail')).toBe('try\ntry\ntry');
    expect(await status('fail')).toMatch(/^exited Exited \(4\)/);
    await ok('clearvm rm fail');
  });

  test('always: after a kill of the VMM, too; but not after a stop', async () => {
    await ok(`clearvm run -d --name svc --restart always ${IMAGE} sh -c 'echo up; sleep 1000'`);
    await untilLog('svc', 'up');
    await host.shell(`kill -9 ${await pidOf('svc', 'vmm')}`);
    await until(`test $(wc -l < ${fileOf('svc', '*-json.log')}) = 2`);
    await until(`grep -q '"status":"running"' ${fileOf('svc', 'state.json')}`);
    await ok('clearvm stop -t 0 svc');
    expect(await status('svc')).toMatch(/^exited Exited \(137\)/);
    await ok('clearvm rm svc');
  });
});

describe('after kill -9', () => {
  test('of the monitor: the VM is gone, ps says so, and it can be started again', async () => {
    await ok(`clearvm run -d --name orphan ${IMAGE} sh -c 'echo up; sleep 1000'`);
    await host.shell(`kill -9 ${await pidOf('orphan', 'monitor')}`);
    expect(await status('orphan')).toMatch(/^exited Exited \(137\)/);
    await until('! grep -lsx clearvm-vmm /proc/[0-9]*/comm');
    await ok('clearvm start orphan');
    expect(await status('orphan')).toMatch(/^running Up/);
    expect(await ok('clearvm rm -f orphan')).toBe('orphan');
    expect(await host.vmms()).toEqual([]);
  });

  test('of the client of `run --rm`: the next command has removed it', async () => {
    const before = await host.traces();
    const { output, result, signal } = host.start([
      'run',
      '--rm',
      '--name',
      'mine',
      IMAGE,
      'sh',
      '-c',
      'echo up; sleep 1000',
    ]);
    await output.until('up');
    expect(await status('mine')).toMatch(/^running/);
    await signal('KILL');
    await result;
    await until('! grep -lsx clearvm-vmm /proc/[0-9]*/comm');
    expect(await status('mine')).toBe('');
    expect((await host.clearvm(['run', '--rm', IMAGE, 'true'])).status).toBe(0);
    expect(await host.traces()).toBe(before);
  });
});
