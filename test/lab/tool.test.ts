// The lab itself: what its callers rely on. Few boots, because each takes seconds.

import { spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { defaultFiles } from '../../scripts/lab/files.mjs';
import { Lab } from '../../scripts/lab/machine.mjs';
import { prepareVtxKernel } from '../../scripts/lab/vtx-kernel.mjs';

const PROJECT = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');
const MAIN = join(PROJECT, 'scripts/lab/main.mjs');
/** A start takes 5 s on an idle machine; on a busy one it has taken a minute. */
const SLOW = 300_000;
const MINUTES_20 = 1_200_000;

vi.setConfig({ testTimeout: 60_000 });

describe('one lab, many commands', () => {
  let lab: Lab;
  let scratch: string;
  beforeAll(async () => {
    // In the project, which is what the lab and the host share.
    scratch = mkdtempSync(join(PROJECT, 'build/lab-test-'));
    lab = await Lab.start({ shares: [PROJECT] });
  }, SLOW);
  afterAll(async () => {
    await lab?.close();
    rmSync(scratch, { recursive: true, force: true });
  });

  const shell = (script: string, options = {}) => lab.run(['sh', '-c', script], options);

  test('it has a KVM that uses nested paging', async () => {
    const { status, stdout } = await shell(
      'test -c /dev/kvm && cat /sys/module/kvm_amd/parameters/npt',
    );
    expect(stdout.toString().trim()).toMatch(/^(Y|1)$/);
    expect(status).toBe(0);
  });

  test.each([
    ['true', 0],
    ['exit 7', 7],
    ['kill -TERM $$', 143],
    ['kill -KILL $$', 137],
    ['exec /nonexistent/program', 127],
    ['exec /etc/passwd', 126],
  ])('%s has the exit status %i', async (script, status) => {
    expect((await shell(script)).status).toBe(status);
  });

  test('a program that cannot be run says why', async () => {
    const missing = await lab.run(['/nonexistent/program']);
    expect(missing).toMatchObject({ status: 127 });
    expect(missing.stderr.toString()).toContain('/nonexistent/program: No such file or directory');
    expect((await lab.run(['/etc/passwd'])).status).toBe(126);
    const nowhere = await lab.run(['true'], { cwd: '/nonexistent' });
    expect(nowhere).toMatchObject({ status: 126 });
    expect(nowhere.stderr.toString()).toContain('/nonexistent');
  });

  test('stdout and stderr come apart', async () => {
    const { stdout, stderr } = await shell('echo out; echo err >&2; echo out2');
    expect(stdout.toString()).toBe('out\nout2\n');
    expect(stderr.toString()).toBe('err\n');
  });

  test('10 MB of any bytes go in and come out unchanged', async () => {
    const bytes = randomBytes(10 << 20);
    const { status, stdout } = await lab.run(['cat'], { stdin: bytes });
    expect(status).toBe(0);
    expect(stdout.equals(bytes)).toBe(true);
  });

  test('stdin that nobody reads does not hold anything up', async () => {
    expect((await lab.run(['true'], { stdin: randomBytes(4 << 20) })).status).toBe(0);
    expect(
      (await shell('exec <&-; sleep 0.2; exit 5', { stdin: randomBytes(4 << 20) })).status,
    ).toBe(5);
  });

  test('without stdin a command reads end-of-file', async () => {
    expect((await shell('wc -c')).stdout.toString().trim()).toBe('0');
  });

  test('the environment is what was asked for, the directory too', async () => {
    const { stdout } = await shell('echo "$WISH/$UNASKED"; pwd', {
      env: { WISH: 'ä =1' },
      cwd: join(PROJECT, 'test'),
    });
    expect(stdout.toString()).toBe(`ä =1/\n${PROJECT}/test\n`);
  });

  test('a signal reaches the command and what it started', async () => {
    const command = lab.spawn(['sh', '-c', 'sleep 1000 & echo started; wait'], {});
    await sleep(500);
    command.kill(15);
    expect((await command.result).status).toBe(143);
    expect((await shell('pidof sleep')).status).toBe(1);
  });

  test('a process that is left behind with the streams open does not hold up the exit', async () => {
    const { status, stdout } = await shell('sleep 30 & echo $!; exit 4');
    expect(status).toBe(4);
    await shell(`kill ${stdout.toString()}`);
  });

  test('commands run side by side and keep their streams', async () => {
    const numbers = [...Array(8).keys()];
    const results = await Promise.all(
      numbers.map((n) => shell(`for i in 1 2 3 4 5; do echo ${n}; sleep 0.02; done; exit ${n}`)),
    );
    expect(results.map(({ status }) => status)).toEqual(numbers);
    expect(results.map(({ stdout }) => stdout.toString())).toEqual(
      numbers.map((n) => `${n}\n`.repeat(5)),
    );
  });

  test('the project is writable, and each side sees what the other wrote', async () => {
    const inside = join(scratch, 'inside');
    await shell(`printf 'from the lab' > ${inside}`);
    expect(readFileSync(inside, 'utf8')).toBe('from the lab');
    const outside = join(scratch, 'outside');
    expect((await shell(`cat ${outside}`)).status).toBe(1);
    writeFileSync(outside, 'from the host');
    const { stdout } = await shell(`cat ${outside}`);
    expect(stdout.toString()).toBe('from the host');
  });

  test('the rest of the machine is there, and cannot be changed', async () => {
    const name = `/usr/lab-test-${randomBytes(4).toString('hex')}`;
    const { stdout } = await shell(`echo kept > ${name} && cat ${name}`);
    expect(stdout.toString()).toBe('kept\n');
    expect(readdirSync('/usr')).not.toContain(name.slice(5));
  });

  test('user namespaces and pivot_root work, and overlays on /var/lib/clearvm', async () => {
    const { status, stdout, stderr } = await shell(`
      set -e
      unshare --user --map-root-user id -u
      unshare --mount sh -ec '
        cd /var/lib/clearvm && mkdir lower upper work root
        mount -t overlay overlay -o lowerdir=/usr:lower,upperdir=upper,workdir=work root
        mount --bind / /mnt && cd /mnt && mkdir -p /tmp/old && mount --bind /tmp/old tmp
        pivot_root . tmp && umount -l /tmp && echo pivoted'`);
    expect(stderr.toString()).toBe('');
    expect(stdout.toString()).toBe('0\npivoted\n');
    expect(status).toBe(0);
  });

  test('a lab that dies is reported, with its last words', async () => {
    const crash = shell('echo c > /proc/sysrq-trigger; sleep 60');
    await expect(crash).rejects.toMatchObject({
      code: 'ERR_LAB_DIED',
      message: expect.stringMatching(/ended before its work was done[^]*sysrq/),
    });
    await expect(shell('true')).rejects.toMatchObject({ code: 'ERR_LAB_DIED' });
  });
});

test(
  'a lab whose command does not end says what it was doing',
  async () => {
    const limited = await Lab.start({ memory: 1024, commandLimitMs: 3000 });
    await using _ = limited;
    await expect(limited.run(['sleep', '1000'])).rejects.toMatchObject({
      code: 'ERR_LAB_HUNG',
      message: expect.stringMatching(/not ended in 3 s[^]*kvm\/exits:\d+[^]*RIP=[^]*\nIRR/),
    });
  },
  SLOW,
);

function isEmulator(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/comm`, 'latin1').startsWith('qemu');
  } catch {
    return false;
  }
}

/** The processes, whoever their parent is, that were started with a certain variable in their environment. */
function processesWith(variable: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').includes(variable);
      } catch {
        return false; // it has ended, or is not ours
      }
    })
    .map(Number);
}

interface Call {
  child: ChildProcess;
  processes: () => number[];
  finished: Promise<{
    status: number | null;
    signal: string | null;
    stdout: Buffer;
    stderr: string;
  }>;
}

function call(...args: string[]): Call {
  const mark = randomBytes(8).toString('hex');
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: { ...process.env, LAB_TEST_MARK: mark },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const chunks: Buffer[] = [];
  let stderr = '';
  child.stdout.on('data', (bytes: Buffer) => chunks.push(bytes));
  child.stderr.on('data', (bytes: Buffer) => (stderr += bytes.toString()));
  const finished = once(child, 'close').then(([status, signal]) => ({
    status: status as number | null,
    signal: signal as string | null,
    stdout: Buffer.concat(chunks),
    stderr,
  }));
  return { child, finished, processes: () => processesWith(`LAB_TEST_MARK=${mark}`) };
}

async function waitFor(what: string, condition: () => boolean, seconds: number): Promise<void> {
  const end = Date.now() + seconds * 1000;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`${what}: not in ${seconds} s`);
    await sleep(50);
  }
}

describe('the command line', () => {
  test(
    'streams, exit status, environment',
    async () => {
      const { finished, processes } = call(
        ...[
          '--env',
          'WISH=yes',
          'sh',
          '-c',
          'head -c 10000000 /dev/zero; echo "$WISH" >&2; exit 7',
        ],
      );
      const { status, stdout, stderr } = await finished;
      expect(stderr).toBe('yes\n');
      expect(status).toBe(7);
      expect(stdout.equals(Buffer.alloc(10_000_000))).toBe(true);
      expect(processes()).toEqual([]);
    },
    SLOW,
  );

  test('a timeout ends the lab with status 124 and leaves no emulator', async () => {
    const { finished, processes } = call('--timeout', '3', 'sleep', '1000');
    const { status, stderr } = await finished;
    expect(status).toBe(124);
    expect(stderr).toMatch(/has not ended in 3 s/);
    await waitFor('the emulator is gone', () => processes().length === 0, 20);
  });

  test.each([
    ['SIGKILL', null],
    ['SIGTERM', 143],
    ['SIGINT', 130],
  ] as const)(
    '%s during the start leaves no emulator',
    async (signal, status) => {
      const { child, finished, processes } = call('sleep', '1000');
      // By its name: it is not bound to its parent's life yet before it has that.
      await waitFor('there is an emulator', () => processes().some(isEmulator), 60);
      child.kill(signal);
      expect((await finished).status).toBe(status);
      await waitFor('the emulator is gone', () => processes().length === 0, 20);
    },
    120_000,
  );

  test(
    'SIGTERM reaches the command; SIGKILL of the caller ends the lab',
    async () => {
      const script = 'trap "echo caught; exit 9" TERM; echo ready; while :; do sleep 0.1; done';
      const first = call('sh', '-c', script);
      await once(first.child.stdout!, 'data');
      first.child.kill('SIGTERM');
      expect(await first.finished).toMatchObject({
        status: 9,
        stdout: Buffer.from('ready\ncaught\n'),
      });

      const second = call('sh', '-c', 'echo ready; sleep 1000');
      await once(second.child.stdout!, 'data');
      expect(second.processes().length).toBeGreaterThan(1);
      second.child.kill('SIGKILL');
      await waitFor('the emulator is gone', () => second.processes().length === 0, 20);
    },
    SLOW,
  );

  test.each([
    [['--nonsense', 'true'], /--nonsense/],
    [[], /no command/],
    [['--memory', 'much', 'true'], /--memory/],
    [['--host', 'arm', 'true'], /--host/],
    [['--file', '/etc/passwd', 'true'], /--file/],
    [['--icount', '--file', '/nonexistent/file', 'true'], /\/nonexistent\/file/],
  ])(
    '%j is refused with status 125',
    async (args, message) => {
      const { status, stderr } = await call(...args).finished;
      expect(stderr).toMatch(message);
      expect(stderr.trim().split('\n')).toHaveLength(1);
      expect(status).toBe(125);
    },
    60_000,
  );
});

describe('the instruction clock', () => {
  test(
    'measures the same twice within 2 %, from memory, without ERMS',
    async () => {
      const { files, trees } = defaultFiles(PROJECT);
      const scratch = mkdtempSync(join(PROJECT, 'build/lab-test-'));
      try {
        writeFileSync(join(scratch, 'file'), 'put into the lab\n');
        await using lab = await Lab.start({
          icount: true,
          files: [...files, `${join(scratch, 'file')}:/some/where/else`],
          trees,
        });
        const { stdout, stderr, status } = await lab.run(
          [
            'bash',
            '-c',
            `cat /some/where/else
          grep -c erms /proc/cpuinfo; grep -c 9p /proc/mounts
          loop() { local t=$(date +%s%N); for ((i = 0; i < 10000; i++)); do :; done; echo $(($(date +%s%N) - t)); }
          loop >/dev/null; loop; loop
          node -p '6 * 7'`,
          ],
          { cwd: '/' },
        );
        expect(stderr.toString()).toBe('');
        const [text, erms, shares, first, second, answer] = stdout.toString().split('\n');
        expect([text, erms, shares, answer, status]).toEqual([
          'put into the lab',
          '0',
          '0',
          '42',
          0,
        ]);
        expect(Number(first)).toBeGreaterThan(1e6);
        expect(Math.abs(Number(first) / Number(second) - 1)).toBeLessThan(0.02);
      } finally {
        rmSync(scratch, { recursive: true });
      }
    },
    SLOW,
  );
});

describe('the VT-x host', () => {
  beforeAll(async () => {
    await prepareVtxKernel();
  }, MINUTES_20);

  test.each([
    [[], 'Y'],
    [['--no-ept'], 'N'],
  ])(
    'with the options %j it has a KVM with EPT: %s',
    async (options, ept) => {
      const script =
        'test -c /dev/kvm && grep -qw vmx /proc/cpuinfo && cat /sys/module/kvm_intel/parameters/ept; echo err >&2; exit 7';
      const { finished, processes } = call(
        '--host',
        'vtx',
        ...options,
        '--',
        'busybox',
        'sh',
        '-c',
        script,
      );
      expect(await finished).toMatchObject({
        status: 7,
        stdout: Buffer.from(`${ept}\n`),
        stderr: 'err\n',
      });
      await waitFor('the emulator is gone', () => processes().length === 0, 20);
    },
    SLOW,
  );

  test('SIGKILL of the caller leaves no emulator', async () => {
    const { child, processes } = call('--host', 'vtx', '--', 'busybox', 'sleep', '1000');
    // The caller, script, and Bochs.
    await waitFor('there is an emulator', () => processes().length >= 3, 60);
    child.kill('SIGKILL');
    await waitFor('the emulator is gone', () => processes().length === 0, 20);
  }, 120_000);
});
