// Further processes in a running container: `exec`, its streams and its terminal; pause, top and stats.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { CLI, IMAGE, PROJECT, startHost, type Host } from './support.js';

const NAME = 'main';
let host: Host;
beforeAll(async () => {
  host = await startHost();
  // In the background there: the lab does not let a command run for as long as this file does.
  const { status } = await host.shell(`
    (clearvm run --rm --name ${NAME} -e FROM=run -w /usr ${IMAGE} \
      sh -c 'echo up; trap "exit 5" TERM; while :; do sleep 0.2; done' > /tmp/main 2>&1; echo $? > /tmp/main-status) &
    until grep -q up /tmp/main; do sleep 0.1; done`);
  expect(status).toBe(0);
});
afterAll(() => host?.close());

describe('exec', () => {
  test.each([
    [['true'], 0, '', ''],
    [['sh', '-c', 'echo out; echo err >&2; exit 7'], 7, 'out\n', 'err\n'],
    [['sh', '-c', 'kill -USR1 $$'], 128 + 10, '', ''],
    [['/etc/passwd'], 126, '', 'clearvm: exec: "/etc/passwd": permission denied\n'],
    [
      ['no-such-program'],
      127,
      '',
      'clearvm: exec: "no-such-program": executable file not found in $PATH\n',
    ],
  ])('%j exits with %i', async (command, status, stdout, stderr) => {
    expect(await host.clearvm(['exec', NAME, ...command])).toEqual({ status, stdout, stderr });
  });

  test('has the environment, directory and user of the container, or its own', async () => {
    const script = 'echo "$FROM|$SET|$FILE"; pwd; id -un; echo ~';
    const { stdout } = await host.shell(`
      echo FILE=file > /tmp/variables
      clearvm exec ${NAME} sh -c '${script}'
      clearvm exec -e FROM=exec -e SET=set --env-file /tmp/variables -w /tmp -u nobody ${NAME} sh -c '${script}'
      clearvm exec -w /no/such ${NAME} pwd 2>&1; echo $?
      clearvm exec -u nosuch ${NAME} pwd 2>&1; echo $?`);
    expect(stdout.split('\n')).toEqual([
      ...['run||', '/usr', 'root', '/root', 'exec|set|file', '/tmp', 'nobody', '/home'],
      'clearvm: chdir to cwd ("/no/such") failed: no such file or directory',
      '126',
      'clearvm: unable to find user nosuch: no matching entries in passwd file',
      ...['126', ''],
    ]);
  });

  test('finds a container by its name and the beginning of its id, and says what is not there', async () => {
    const { stdout } = await host.shell(`
      id=$(ls /run/clearvm | grep -E '^[0-9a-f]{64}$')
      clearvm exec $id echo by id
      clearvm exec \${id:0:7} echo by prefix
      clearvm exec nosuch true 2>&1; echo $?
      clearvm exec --privileged ${NAME} true 2>&1; echo $?`);
    expect(stdout.split('\n').slice(0, 4)).toEqual([
      ...['by id', 'by prefix', 'clearvm: No such container: nosuch', '1'],
    ]);
    expect(stdout).toMatch(/--privileged is not supported: .*\n125\n$/);
  });

  test('end-of-file goes both ways, and 20 MiB each way come through unchanged', async () => {
    const { status, stdout, stderr } = await host.shell(`
      set -o pipefail
      yes | head -c 20M > /tmp/input; sha256sum < /tmp/input
      clearvm exec -i ${NAME} cat < /tmp/input | sha256sum || exit
      set +o pipefail
      # By exec: a shell that waits holds the pipe as well.
      (exec ${process.execPath} -- ${CLI} exec ${NAME} sh -c '
        echo out; exec >&- 2>&-; while ! [ -e /tmp/go ]; do sleep 0.1; done; exit 3') |
        { cat; echo end-of-file; clearvm exec ${NAME} touch /tmp/go; }
      exit "\${PIPESTATUS[0]}"`);
    expect(stderr).toBe('');
    expect(status).toBe(3);
    const [sent, received, ...rest] = stdout.split('\n');
    expect(received).toBe(sent);
    expect(rest).toEqual(['out', 'end-of-file', '']);
  });

  test('-d leaves it running; what a command leaves behind goes on without a reader', async () => {
    const { stdout } = await host.shell(`
      clearvm exec -d ${NAME} sh -c 'sleep 1; echo said to nobody; echo done > /tmp/detached'
      clearvm exec ${NAME} sh -c '(while ! [ -e /tmp/finish ]; do echo noise; sleep 0.1; done; echo over > /tmp/left) & echo started'
      clearvm exec ${NAME} sh -c 'sleep 1; touch /tmp/finish; until [ -s /tmp/left -a -s /tmp/detached ]; do sleep 0.1; done; cat /tmp/left /tmp/detached'`);
    // What it says before the command's own end may or may not be seen.
    expect(stdout.replaceAll('noise\n', '')).toBe('started\nover\ndone\n');
  });

  test('64 at once, each with its own streams and status', async () => {
    const { stdout } = await host.run([
      ...[process.execPath, '--input-type=module', '-e'],
      `import { Engine } from '${PROJECT}/dist/index.js';
       import { text } from 'node:stream/consumers';
       const engine = new Engine();
       const one = async (i) => {
         const process = await engine.exec('${NAME}', ['sh', '-c', 'read x; echo out $x; echo err $x >&2; exit ' + i], { stdin: 'pipe' });
         return { i, process };
       };
       const all = await Promise.all(Array.from({ length: 64 }, (_, i) => one(i)));
       const ends = all.map(async ({ i, process }) => {
         process.stdin.end(i + '\\n');
         const [out, err, { exitCode }] = await Promise.all([text(process.stdout), text(process.stderr), process.wait()]);
         return out === 'out ' + i + '\\n' && err === 'err ' + i + '\\n' && exitCode === i;
       });
       console.log(JSON.stringify((await Promise.all(ends)).filter(Boolean).length));`,
    ]);
    expect(stdout).toBe('64\n');
  });

  test('its streams connect, however long the host takes over it', async () => {
    // The second thread has the sockets of the streams.
    const { stdout, stderr } = await host.shell(`
      io=$(ls /proc/$(pgrep -x clearvm-vmm)/task | sort -n | sed -n 2p)
      python3 ${PROJECT}/test/lab/drivers/slow_thread.py $io 3 7 | {
        read slow; clearvm exec ${NAME} echo there; echo "$slow"; }`);
    expect(stderr).toBe('');
    expect(stdout).toBe('there\nslow\n');
  });

  test('a reader that stalls holds up its own process alone', async () => {
    const { stdout, stderr } = await host.run([
      ...[process.execPath, '--input-type=module', '-e'],
      `import { Engine } from '${PROJECT}/dist/index.js';
       const engine = new Engine();
       const [size, more] = [25 << 20, 4 << 20];
       const cat = (size) => ['sh', '-c', 'head -c ' + size + ' /dev/zero'];
       const count = async (stream) => { let bytes = 0; for await (const chunk of stream) bytes += chunk.length; return bytes; };
       const stalled = await engine.exec('${NAME}', cat(more));
       let ended = false;
       stalled.wait().then(() => (ended = true));
       const siblings = await Promise.all([1, 2].map(() => engine.exec('${NAME}', cat(size))));
       const sums = await Promise.all(siblings.map(({ stdout }) => count(stdout)));
       const codes = await Promise.all(siblings.map(async (each) => (await each.wait()).exitCode));
       const before = ended;
       const sum = await count(stalled.stdout);
       const { exitCode } = await stalled.wait();
       console.log(JSON.stringify({ sums, codes, before, sum, exitCode }));`,
    ]);
    expect(stderr).toBe('');
    const size = 25 << 20;
    expect(JSON.parse(stdout)).toEqual({
      ...{ sums: [size, size], codes: [0, 0], before: false, sum: 4 << 20, exitCode: 0 },
    });
  });

  test('kill, abort, and the end of a scope end the process', async () => {
    const { stdout, stderr } = await host.run([
      ...[process.execPath, '--input-type=module', '-e'],
      `import { Engine } from '${PROJECT}/dist/index.js';
       const engine = new Engine();
       const sleep = ['sleep', '98765'];
       const killed = await engine.exec('${NAME}', sleep);
       await killed.kill('SIGTERM');
       console.log(JSON.stringify(await killed.wait()));
       const aborter = new AbortController();
       const aborted = await engine.exec('${NAME}', sleep, { signal: aborter.signal });
       aborter.abort(new Error('enough'));
       console.log(await aborted.wait().catch((error) => error.message));
       const disposed = await engine.exec('${NAME}', sleep);
       await disposed[Symbol.asyncDispose]();
       const left = await engine.exec('${NAME}', ['sh', '-c', 'ps -o args | grep "[s]leep 98765"']);
       console.log((await left.wait()).exitCode);
       await left.kill().catch((error) => console.log(error.code));`,
    ]);
    expect(stderr).toBe('');
    expect(stdout.split('\n')).toEqual([
      '{"exitCode":143,"signal":"SIGTERM"}',
      ...['enough', '1', 'ERR_VMM_GONE', ''],
    ]);
  });
});

describe('terminals', () => {
  test('exec -it: echo, size, Ctrl-C as a byte, TERM; and the terminal is given back', async () => {
    const session = await host.atTerminal(
      ['exec', '-it', NAME, 'sh'],
      [
        ['wait', '# '],
        ['type', 'tty; echo $TERM; stty size\n'],
        ['wait', 'tty; echo'],
        ['wait', '/dev/pts/'],
        ['wait', 'xterm\r\n24 80\r\n'],
        ['size', 40, 133],
        ['type', 'until [ "$(stty size)" = "40 133" ]; do sleep 0.1; done; echo resi""zed\n'],
        ['wait', 'resized'],
        ['wait', '# '],
        // What is typed before the shell asks, or before the job has the terminal, may be lost.
        ['type', 'sh -c \'echo on""e; exec sleep 1000\'\n'],
        ['wait', 'one\r\n'],
        ['type', '\x03'],
        ['wait', '^C'],
        ['wait', '# '],
        ['type', 'sh -c \'echo tw""o; exec sleep 1000\'\n'],
        ['wait', 'two\r\n'],
        ['type', '\x1a'],
        ['wait', 'Stopped'],
        ['wait', '# '],
        // The first `exit` is refused as long as the shell has not seen the job's end.
        ['type', 'kill -9 %1; exit 9; exit 9\n'],
        ['end'],
      ],
    );
    expect(session).toMatchObject({ failure: null, status: 9, restored: true });
  });

  test('run -it', async () => {
    const session = await host.atTerminal(
      ['run', '--rm', '-it', IMAGE],
      [
        ['wait', '# '],
        ['type', 'tty; echo $TERM; stty size\n'],
        ['wait', '/dev/pts/0\r\nxterm\r\n24 80\r\n'],
        ['size', 40, 133],
        ['type', 'until [ "$(stty size)" = "40 133" ]; do sleep 0.1; done; echo resi""zed\n'],
        ['wait', 'resized'],
        ['wait', '# '],
        ['type', 'exit 9\n'],
        ['end'],
      ],
    );
    expect(session).toMatchObject({ failure: null, status: 9, restored: true });
  });

  test('the detach keys let go, and the process goes on', async () => {
    const session = await host.atTerminal(
      ['exec', '-it', NAME, 'sh', '-c', 'echo $$ > /tmp/pid; echo ready; read x; sleep 1000'],
      [['wait', 'ready'], ['type', '\x10\x11'], ['end']],
    );
    expect(session).toMatchObject({ failure: null, status: 0, restored: true });
    expect(session.output).toMatch(/read escape sequence\r\n$/);
    const { status } = await host.clearvm(['exec', NAME, 'sh', '-c', 'kill -9 $(cat /tmp/pid)']);
    expect(status).toBe(0);
  });

  test('a client that is told to end gives the terminal back, and its shell hears of it', async () => {
    const session = await host.atTerminal(
      [
        ...['exec', '-it', NAME, 'sh', '-c'],
        'trap "echo gone > /tmp/hup; exit" HUP; echo ready; while :; do sleep 0.1; done',
      ],
      [['wait', 'ready'], ['signal', 'SIGTERM'], ['end']],
    );
    expect(session).toMatchObject({ failure: null, status: -15, restored: true });
    const { stdout } = await host.clearvm([
      ...['exec', NAME, 'sh', '-c', 'until [ -s /tmp/hup ]; do sleep 0.1; done; cat /tmp/hup'],
    ]);
    expect(stdout).toBe('gone\n');
  });

  test('without a terminal, -it is refused as docker does it; -t alone works', async () => {
    expect(await host.clearvm(['exec', '-it', NAME, 'true'], { stdin: '' })).toEqual({
      ...{ status: 1, stdout: '', stderr: 'clearvm: the input device is not a TTY\n' },
    });
    const { status, stdout } = await host.clearvm(['exec', '-t', NAME, 'sh', '-c', 'tty; exit 4']);
    expect(stdout).toMatch(/^\/dev\/pts\/\d+\r\n$/);
    expect(status).toBe(4);
  });
});

describe('the VM as a whole', () => {
  test('pause and unpause', async () => {
    const { stdout } = await host.shell(`
      clearvm exec ${NAME} sh -c 'while :; do date +%s > /tmp/tick; sleep 0.1; done' & ticker=$!
      until clearvm exec ${NAME} test -s /tmp/tick; do :; done
      clearvm pause ${NAME}; clearvm pause ${NAME} 2>&1; echo $?
      clearvm exec ${NAME} true 2>&1; echo $?
      clearvm stats --no-stream ${NAME} | tail -n 1 | sed 's/  */ /g'
      clearvm unpause ${NAME}; clearvm unpause ${NAME} 2>&1; echo $?
      clearvm exec ${NAME} sh -c 'rm /tmp/tick; until [ -s /tmp/tick ]; do sleep 0.1; done; echo ticks'
      kill $ticker`);
    const id = '[0-9a-f]{64}';
    expect(stdout).toMatch(
      new RegExp(
        [
          ...[`^${NAME}`, `clearvm: Container ${id} is already paused`, '1'],
          ...[
            `clearvm: Container ${id} is paused, unpause the container before exec`,
            '1',
            `[0-9a-f]{12} ${NAME} -- -- / -- -- -- -- --`,
          ],
          ...[NAME, `clearvm: Container ${id} is not paused`, '1', 'ticks', '$'],
        ].join('\n'),
      ),
    );
  });

  test('top and stats', async () => {
    const { stdout } = await host.shell(`
      clearvm exec -d ${NAME} sleep 1000
      clearvm exec -d -u 33 ${NAME} sh -c 'while :; do :; done; # busy'
      clearvm top ${NAME}; clearvm stats --no-stream; clearvm top ${NAME} -o comm | sort
      clearvm exec ${NAME} sh -c 'kill -9 $(ps -o pid,args | sed -n "s/^ *\\([0-9]*\\) sh -c while :; do :; done.*/\\1/p")'`);
    const lines = stdout.split('\n');
    expect(lines[0]).toMatch(/^UID {17}PID {17}PPID {16}C {19}STIME {15}TTY {17}TIME {16}CMD$/);
    expect(stdout).toMatch(/^root +\d+ +1 +\d+ +\S+ +\? +\d\d:\d\d:\d\d +sh -c echo up;/m);
    expect(stdout).toMatch(/^33 +\d+ +1 +\d+ +\S+ +\? +\d\d:\d\d:\d\d +sh -c while :/m);
    const at = lines.findIndex((line) => line.startsWith('CONTAINER ID   NAME'));
    expect(lines[at]).toMatch(/CPU % +MEM USAGE \/ LIMIT +MEM % +NET I\/O +BLOCK I\/O +PIDS$/);
    const [, cpu, used, percent, tasks] =
      /^[0-9a-f]{12} +main +([\d.]+)% +([\d.]+)MiB \/ 512MiB +([\d.]+)% +0B \/ 0B +0B \/ 0B +(\d+)$/.exec(
        lines[at + 1] ?? '',
      ) ?? [];
    expect(Number(cpu)).toBeGreaterThan(5);
    expect(Number(cpu)).toBeLessThanOrEqual(100);
    expect(Number(used)).toBeGreaterThan(0);
    expect(Number(percent)).toBeLessThan(50);
    expect(Number(tasks)).toBeGreaterThanOrEqual(2);
    expect(lines.slice(at + 2)).toEqual(expect.arrayContaining(['COMMAND', 'sh', 'sleep']));
  });
});

describe('the container ends', () => {
  test('and its processes with it: 137', async () => {
    const { output, result } = host.start(['exec', NAME, 'sh', '-c', 'echo up; sleep 1000']);
    await output.until('up');
    const ended = await host.shell(`
      clearvm exec ${NAME} sh -c 'kill -TERM $(ps -o pid,args | sed -n "s/^ *\\([0-9]*\\) sh -c echo up; trap.*/\\1/p")'
      until [ -s /tmp/main-status ]; do sleep 0.1; done; cat /tmp/main-status`);
    expect(ended.stdout).toBe('5\n');
    expect((await result).status).toBe(137);
    const { status, stderr } = await host.clearvm(['exec', NAME, 'true']);
    expect({ status, stderr }).toEqual({
      ...{ status: 1, stderr: `clearvm: No such container: ${NAME}\n` },
    });
    expect(await host.vmms()).toEqual([]);
  });
});
