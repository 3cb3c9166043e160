// `clearvm run` from end to end: on the lab's KVM, with the real kernel, VMM and init.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { CLI, IMAGE, PROJECT, startHost, type Host } from './support.js';

let host: Host;
beforeAll(async () => {
  host = await startHost();
});
afterAll(() => host?.close());

describe('exit status', () => {
  test.each([
    [['true'], 0],
    [['sh', '-c', 'exit 7'], 7],
    [['sh', '-c', 'kill -USR1 $$'], 128 + 10],
  ])('%j exits with %i, and says nothing', async (command, status) => {
    const before = await host.traces();
    expect(await host.clearvm(['run', '--rm', IMAGE, ...command])).toEqual({
      status,
      stdout: '',
      stderr: '',
    });
    expect(await host.traces()).toBe(before);
  });

  test.each([
    [['/etc/passwd'], 126, /\/etc\/passwd/],
    [['no-such-program'], 127, /no-such-program/],
  ])('%j exits with %i, and says why', async (command, status, message) => {
    const before = await host.traces();
    const outcome = await host.clearvm(['run', '--rm', IMAGE, ...command]);
    expect(outcome).toMatchObject({ status, stdout: '' });
    expect(outcome.stderr).toMatch(message);
    expect(outcome.stderr.trim().split('\n')).toHaveLength(1);
    expect(await host.traces()).toBe(before);
  });
});

describe('streams', () => {
  test('100 MiB go through `cat` unchanged, and end-of-file goes in', async () => {
    const { status, stdout, stderr } = await host.shell(`
      set -o pipefail
      yes | head -c 100M > /tmp/input
      sha256sum < /tmp/input
      clearvm run --rm -i ${IMAGE} cat < /tmp/input | sha256sum
      status=$?; rm /tmp/input; exit $status`);
    expect(stderr).toBe('');
    expect(status).toBe(0);
    const [sent, received] = stdout.split('\n');
    expect(received).toBe(sent);
  });

  test('end-of-file comes out of the command line while the command still runs', async () => {
    // It is told to end only after its closed stdout has been seen. By exec: a shell that waits holds the pipe as well.
    const { status, stdout, stderr } = await host.shell(`
      mkfifo /tmp/in; exec 3<>/tmp/in
      (exec ${process.execPath} -- ${CLI} run --rm -i ${IMAGE} sh -c 'echo out; exec >&-; read line; exit 3') <&3 |
        { cat; echo end-of-file; echo go >&3; }
      status=\${PIPESTATUS[0]}; rm /tmp/in; exit $status`);
    expect(stderr).toBe('');
    expect(stdout).toBe('out\nend-of-file\n');
    expect(status).toBe(3);
  });

  test('a log that nobody reads does not hold up the VM', async () => {
    const { status, stdout } = await host.shell(`
      mkfifo /tmp/log; exec 3<>/tmp/log
      timeout 1 cat /dev/zero >&3
      clearvm run --rm --debug ${IMAGE} echo out 2>&3; status=$?; rm /tmp/log; exit $status`);
    expect(stdout).toBe('out\n');
    expect(status).toBe(0);
  });

  test('end-of-file comes out of the library while the command still runs', async () => {
    // It is told to end only after its closed stdout has been seen.
    const { status, stdout, stderr } = await host.run([
      ...[process.execPath, '--input-type=module', '-e'],
      `import { Engine } from '${PROJECT}/dist/index.js';
       const cmd = ['sh', '-c', 'echo out; exec >&-; read line; exit 3'];
       const container = await new Engine().run('${IMAGE}', { cmd, stdin: 'pipe', stderr: 'inherit' });
       for await (const bytes of container.stdout) process.stdout.write(bytes);
       console.log('end-of-file');
       container.stdin.end('go\\n');
       process.exitCode = (await container.wait()).exitCode;`,
    ]);
    expect(stderr).toBe('');
    expect(stdout).toBe('out\nend-of-file\n');
    expect(status).toBe(3);
  });

  test('a reader that goes away ends the writer', async () => {
    const { status, stdout } = await host.shell(
      `clearvm run --rm ${IMAGE} yes | head -n 1; exit "\${PIPESTATUS[0]}"`,
    );
    expect(stdout).toBe('y\n');
    expect(status).toBe(128 + 13);
  });
});

describe('the end', () => {
  test('what a command leaves behind, children and orphans, ends with it', async () => {
    // They hold the output, too, which would otherwise be waited for.
    const { status, stdout } = await host.clearvm([
      ...['run', '--rm', IMAGE, 'sh', '-c'],
      '(setsid sleep 1000 &); sleep 1000 & echo out; exit 3',
    ]);
    expect(stdout).toBe('out\n');
    expect(status).toBe(3);
  });
});

describe('signals', () => {
  test('SIGTERM and SIGINT reach the command', async () => {
    const { output, result, signal } = host.start([
      ...['run', '--rm', IMAGE, 'sh', '-c'],
      'trap "echo got TERM" TERM; trap "echo got INT; exit 3" INT; echo ready; while :; do sleep 0.1; done',
    ]);
    await output.until('ready');
    await signal('TERM');
    await output.until('got TERM');
    await signal('INT');
    expect((await result).status).toBe(3);
    expect(output.text).toBe('ready\ngot TERM\ngot INT\n');
  });

  test('SIGKILL of the command line leaves no VM after two seconds, and the next run tidies up', async () => {
    const before = await host.traces();
    const { output, result, pidFile } = host.start([
      'run',
      '--rm',
      IMAGE,
      'sh',
      '-c',
      'echo up; sleep 1000',
    ]);
    await output.until('up');
    expect(await host.vmms()).not.toEqual([]);
    // Measured inside: each command from here takes a while on a machine that is busy.
    const { stdout } = await host.shell(`
      read pid < ${pidFile}; start=\${EPOCHREALTIME/./}; kill -KILL $pid
      while grep -qsx clearvm-vmm /proc/[0-9]*/comm; do :; done
      echo $(((\${EPOCHREALTIME/./} - start) / 1000))`);
    expect(Number(stdout || NaN)).toBeLessThan(2000);
    expect(await host.vmms()).toEqual([]);
    expect((await result).status).toBe(128 + 9);
    expect((await host.clearvm(['run', '--rm', IMAGE, 'true'])).status).toBe(0);
    expect(await host.traces()).toBe(before);
  });
});

describe('options', () => {
  test('-e --env-file -w -u --hostname --cpus --memory, stdout and stderr apart', async () => {
    const { status, stdout, stderr } = await host.shell(`
      printf '# a comment\\nFROM_FILE=file\\nBOTH=file\\nPASSED_ON\\n' > /tmp/variables
      export PASSED_ON='of the shell' GIVEN='by name'
      clearvm run --rm -e 'SET=a b=c' -e GIVEN -e BOTH=option --env-file /tmp/variables \\
        -w /home/new -u nobody:tty --hostname some-host --cpus 2 --memory 200m ${IMAGE} sh -c '
          echo "$SET|$GIVEN|$BOTH|$FROM_FILE|$PASSED_ON"
          pwd; id -un; id -gn; hostname; nproc
          sed -n "s/^MemTotal: *\\([0-9]*\\) kB/\\1/p" /proc/meminfo
          echo "to stderr" >&2'`);
    expect(stderr).toBe('to stderr\n');
    expect(status).toBe(0);
    const lines = stdout.trim().split('\n');
    const memory = Number(lines.pop());
    expect(lines).toEqual([
      'a b=c|by name|option|file|of the shell',
      ...['/home/new', 'nobody', 'tty', 'some-host', '2'],
    ]);
    // The kernel keeps some for itself.
    expect(memory).toBeGreaterThan(150 * 1024);
    expect(memory).toBeLessThan(200 * 1024);
  });

  test('what docker hides of /proc is hidden, and --sysctl goes where it cannot be written', async () => {
    const script = `cat /proc/sys/net/core/somaxconn; cat /proc/kcore | wc -c; ls /sys/firmware | wc -l
      echo 1 > /proc/sys/net/core/somaxconn || echo read-only; echo b > /proc/sysrq-trigger || echo no`;
    const args = ['run', '--rm', '--sysctl', 'net.core.somaxconn=1234', IMAGE, 'sh', '-c', script];
    const { status, stdout } = await host.clearvm(args);
    expect(stdout).toBe('1234\n0\n0\nread-only\nno\n');
    expect(status).toBe(0);
  });

  test('--entrypoint, and --timings in their order', async () => {
    const { status, stdout, stderr } = await host.clearvm([
      ...['run', '--rm', '--timings', '--entrypoint', 'echo', IMAGE, 'from', 'echo'],
    ]);
    expect(stdout).toBe('from echo\n');
    expect(status).toBe(0);
    const [heading, ...rows] = stderr.trimEnd().split('\n');
    expect(heading).toMatch(/at ms +step ms +point/);
    const points = rows.map((row) => row.trim().split(/\s+/));
    const times = points.map(([at]) => Number(at));
    expect(times).toEqual([...times].sort((a, b) => a - b));
    expect(points.map(([, , point]) => point)).toEqual(
      expect.arrayContaining(['request', 'prepared', 'started', 'exited', 'cleaned']),
    );
  });
});
