// What cannot work, in the lab: each ends with status 125, one clear line, and nothing left behind.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { busyboxImage } from '../../scripts/images.mjs';
import { CLI, IMAGE, PROJECT, ROOT, startHost, type CommandOptions, type Host } from './support.js';

let host: Host;
/** In the project: what is made here the lab sees. */
let scratch: string;
beforeAll(async () => {
  fs.mkdirSync(path.join(PROJECT, 'build'), { recursive: true });
  scratch = fs.mkdtempSync(path.join(PROJECT, 'build/failures-'));
  host = await startHost();
});
afterAll(async () => {
  await host?.close();
  fs.rmSync(scratch, { recursive: true, force: true });
});

/** Runs a script that is to fail in one line, which is returned, and to change nothing. */
async function fails(script: string, options?: CommandOptions): Promise<string> {
  const before = await host.traces();
  const { status, stdout, stderr } = await host.shell(script, options);
  expect(stderr).toMatch(/^clearvm: .+\n$/);
  expect(status).toBe(125);
  expect(stdout).toBe('');
  expect(await host.traces()).toBe(before);
  return stderr.trim();
}

function tar(...args: string[]): void {
  const { status, stderr } = spawnSync('tar', args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(stderr);
}

const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

describe('images', () => {
  test('no such image', async () => {
    expect(await fails('clearvm run --rm --pull never no-such-image true')).toMatch(
      /no-such-image/,
    );
  });

  test('an archive that is cut short', async () => {
    const { archive } = await busyboxImage();
    const bytes = fs.readFileSync(archive);
    const cut = path.join(scratch, 'cut.tar');
    fs.writeFileSync(cut, bytes.subarray(0, Math.floor(bytes.length / 2)));
    expect(await fails(`clearvm load -q -i ${cut}`)).toMatch(/cut\.tar/);
    // Not even its end is told when it comes by a pipe.
    expect(await fails(`cat ${cut} | clearvm load -q`)).toMatch(/short|end|damaged|missing/i);
  });

  test('a layer whose digest does not match', async () => {
    const { archive } = await busyboxImage();
    const layout = path.join(scratch, 'changed');
    fs.mkdirSync(layout);
    tar('-xf', archive, '-C', layout);
    const blobs = path.join(layout, 'blobs/sha256');
    const [largest = ''] = fs
      .readdirSync(blobs)
      .sort(
        (a, b) => fs.statSync(path.join(blobs, b)).size - fs.statSync(path.join(blobs, a)).size,
      );
    const bytes = fs.readFileSync(path.join(blobs, largest));
    const middle = bytes.length >> 1;
    bytes[middle]! ^= 1;
    fs.writeFileSync(path.join(blobs, largest), bytes);
    const line = await fails(`clearvm load -q -i ${layout}`);
    expect(line).toMatch(/digest/);
    expect(line).toContain(largest);
  });

  test('a layer with names that leave it', async () => {
    const image = path.join(scratch, 'escape');
    fs.mkdirSync(image);
    fs.writeFileSync(path.join(image, 'file'), 'escaped\n');
    const up = '../'.repeat(20);
    const layer = path.join(image, 'layer.tar');
    tar('-P', '--transform', `s,^file,${up}tmp/escaped,`, '-C', image, '-cf', layer, 'file');
    const config = Buffer.from(
      JSON.stringify({
        ...{ architecture: 'amd64', os: 'linux', config: {} },
        rootfs: { type: 'layers', diff_ids: [`sha256:${sha256(fs.readFileSync(layer))}`] },
      }),
    );
    const name = `${sha256(config)}.json`;
    fs.writeFileSync(path.join(image, name), config);
    fs.writeFileSync(
      path.join(image, 'manifest.json'),
      JSON.stringify([{ Config: name, RepoTags: ['escape:latest'], Layers: ['layer.tar'] }]),
    );
    const archive = path.join(scratch, 'escape.tar');
    tar('-C', image, '-cf', archive, 'manifest.json', name, 'layer.tar');
    expect(await fails(`clearvm load -q -i ${archive}`)).toMatch(/\.\.\//);
    expect((await host.shell('test -e /tmp/escaped')).status).toBe(1);
  });
});

describe('options', () => {
  test.each([
    ['--memory 1m', /memory.*1m.*64m/],
    ['--cpus 0', /cpus.*0.*0.01 to 32/],
    ['-w relative', /workdir.*absolute/],
    ['--name -', /Invalid container name \(-\)/],
    ['--env-file /no/such/file', /\/no\/such\/file/],
  ])('%s', async (option, message) => {
    expect(await fails(`clearvm run --rm ${option} ${IMAGE} true`)).toMatch(message);
  });

  test('what is found wrong late leaves no volume behind', async () => {
    await host.shell(`mkdir -p -m 711 ${ROOT}/volumes`);
    expect(await fails(`clearvm run --rm -v /anonymous --ulimit nonsense=1 ${IMAGE} true`)).toMatch(
      /nonsense/,
    );
  });

  test('the library names the field that fails its schema', async () => {
    const { stdout, stderr } = await host.run([
      ...[process.execPath, '--input-type=module', '-e'],
      `import { Engine } from '${PROJECT}/dist/index.js';
       import { checkVmConfig } from '${PROJECT}/dist/vm/config.js';
       const show = ({ code, field, message }) => console.log(JSON.stringify([code, field, message]));
       await new Engine().run('${IMAGE}', { cmd: ['true'], env: [1] }).catch(show);
       await new Engine().run('${IMAGE}', { command: ['true'] }).catch(show);
       try { checkVmConfig({ version: 1, id: '0'.repeat(64), cpus: 'two' }) } catch (error) { show(error) }`,
    ]);
    expect(stderr).toBe('');
    const errors = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as [string, string, string]);
    expect(errors.map(([code]) => code)).toEqual([
      ...['ERR_RUN_OPTIONS', 'ERR_RUN_OPTIONS', 'ERR_VM_CONFIG'],
    ]);
    expect(errors[0]?.[1]).toMatch(/^env/);
    expect(errors[1]?.[1]).toBe('command');
    for (const [, field, message] of errors) expect(message).toContain(field);
  });
});

describe('the guest kernel', () => {
  test.each([
    ['/no/such/vmlinux', /\/no\/such\/vmlinux does not exist/],
    ['/etc/passwd', /ELF/],
    ['/bin/busybox', /the guest shut itself down/],
  ])('%s', async (kernel, message) => {
    const options = { env: { CLEARVM_KERNEL: kernel } };
    expect(await fails(`clearvm run --rm ${IMAGE} true`, options)).toMatch(message);
  });
});

describe('/dev/kvm', () => {
  /** With a /dev of its own, which holds what Node needs, and what is made by `more`. */
  const withDevices = (more: string, command: string) =>
    `unshare -m sh -c 'mount -t tmpfs none /dev; mknod -m 666 /dev/null c 1 3; ${more}; exec ${command}'`;
  const run = `${process.execPath} ${CLI} run --rm ${IMAGE} true`;

  test('missing', async () => {
    expect(await fails(withDevices('true', run))).toMatch(/\/dev\/kvm does not exist.*doctor/);
  });

  test('not permitted', async () => {
    // Root, without the capability that makes permissions nothing to it.
    const line = await fails(
      withDevices(
        'mknod -m 000 /dev/kvm c 10 232',
        `setpriv --bounding-set -dac_override --inh-caps -dac_override ${run}`,
      ),
    );
    expect(line).toMatch(/\/dev\/kvm may not be opened by this user.*doctor/);
  });

  const pretends =
    fs.existsSync('/dev/kvm') &&
    !/^flags.* (vmx|svm)\b/m.test(fs.readFileSync('/proc/cpuinfo', 'latin1'));
  test.runIf(pretends)('software: on this machine itself, outside the lab', async () => {
    const { archive } = await busyboxImage();
    const place = fs.mkdtempSync(path.join(tmpdir(), 'clearvm-failures-'));
    try {
      const clearvm = (...args: string[]) =>
        spawnSync(process.execPath, [CLI, ...args], {
          encoding: 'utf8',
          env: { ...process.env, CLEARVM_ROOT: `${place}/root`, CLEARVM_RUN: `${place}/run` },
        });
      expect(clearvm('load', '-q', '-i', archive, '--name', IMAGE).status).toBe(0);
      const { status, stdout, stderr } = clearvm('run', '--rm', IMAGE, 'true');
      expect(stderr).toMatch(
        /^clearvm: \/dev\/kvm .*not hardware.*clearvm doctor.*npm run lab.*\n$/,
      );
      expect(stdout).toBe('');
      expect(status).toBe(125);
      expect(fs.existsSync(`${place}/root/containers`)).toBe(false);
      expect(fs.readdirSync(`${place}/run`)).toEqual(['kvm-verdict.json']);
    } finally {
      fs.rmSync(place, { recursive: true, force: true });
    }
  });
});

describe('the VM', () => {
  test('kill -9 of the VMM is reported as what it is, with the kernel log', async () => {
    const before = await host.traces();
    const { output, result } = host.start([
      'run',
      '--rm',
      IMAGE,
      'sh',
      '-c',
      'mknod /kmsg c 1 11; echo "<3>a line of the kernel log" > /kmsg; echo up; sleep 1000',
    ]);
    await output.until('up');
    await host.shell(`kill -9 ${(await host.vmms()).join(' ')}`);
    const { status, stderr } = await result;
    expect(status).toBe(125);
    const [line, heading, ...log] = stderr.trimEnd().split('\n');
    expect(line).toMatch(/^clearvm: the VMM was killed by signal 9 \(SIGKILL\)/);
    expect(line).not.toMatch(/panic/);
    expect(heading).toMatch(/last lines of the guest's kernel log/);
    expect(log.join('\n')).toMatch(/a line of the kernel log/);
    expect(await host.traces()).toBe(before);
  });

  test('a guest panic is reported as what it is, with the kernel log', async () => {
    const before = await host.traces();
    const { status, stderr } = await host.clearvm([
      ...['run', '--rm', '--memory', '64m', '--sysctl', 'vm.panic_on_oom=2'],
      ...[IMAGE, 'tail', '/dev/zero'],
    ]);
    expect(status).toBe(125);
    const [line, heading, ...log] = stderr.trimEnd().split('\n');
    expect(line).toMatch(/^clearvm: the guest kernel panicked: Out of memory/);
    expect(heading).toMatch(/last lines of the guest's kernel log/);
    expect(log.join('\n')).toMatch(/Kernel panic - not syncing: Out of memory/);
    expect(await host.traces()).toBe(before);
  });
});
