// Copies, changes and archives of a container that does not run: on this host's own overlayfs, as root.
import { execFileSync } from 'node:child_process';
import { Readable } from 'node:stream';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

import { afterEach, beforeEach, describe, expect, test } from 'vitest';

import {
  containerChanges,
  exportContainer,
  runConfigOf,
} from '../../../src/engine/files/archive.js';
import { copyIn, copyOut, readArchive, writeArchive } from '../../../src/engine/files/copy.js';
import { literal } from '../../../src/engine/files/tar.js';
import type { ViewPlace } from '../../../src/engine/files/view.js';
import { whiteouts } from '../../../src/engine/files/whiteouts.js';
import type { ContainerRecord } from '../../../src/engine/record.js';
import type { OciSpec } from '../../../src/vm/spec.js';

const root = process.getuid?.() === 0;
let top: string;
let place: ViewPlace;

/** Files by path; a text that begins with `->` is a link, and null a directory. */
function make(directory: string, files: Record<string, string | null>): void {
  for (const [name, text] of Object.entries(files)) {
    const file = path.join(directory, name);
    fs.mkdirSync(text === null ? file : path.dirname(file), { recursive: true });
    if (text?.startsWith('->')) fs.symlinkSync(text.slice(2), file);
    else if (text !== null) fs.writeFileSync(file, text);
  }
}

/** What is below a directory, as `make` takes it; directories that hold something are left out. */
function tree(directory: string, below = ''): Record<string, string | null> {
  const found: Record<string, string | null> = {};
  for (const entry of fs.readdirSync(path.join(directory, below), { withFileTypes: true })) {
    const name = path.join(below, entry.name);
    const file = path.join(directory, name);
    if (entry.isSymbolicLink()) found[name] = `->${fs.readlinkSync(file)}`;
    else if (!entry.isDirectory()) found[name] = fs.readFileSync(file, 'utf8');
    else if (fs.readdirSync(file).length === 0) found[name] = null;
    else Object.assign(found, tree(directory, name));
  }
  return found;
}

const listOf = (archive: Buffer): string[] =>
  execFileSync('tar', ['-t'], { input: archive }).toString().trimEnd().split('\n').sort();

async function collect(stream: Readable): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

const upper = (): string => `${top}/data/upper`;
const host = (name: string): string => `${top}/host/${name}`;
const out = (from: string, to: string, options = {}) => copyOut(place, from, to, options);
const into = (from: string, to: string, options = {}) => copyIn(place, from, to, options);

beforeEach(() => {
  top = fs.mkdtempSync(path.join(tmpdir(), 'clearvm-files-'));
  make(top, {
    'layers/one/etc/conf': 'conf\n',
    'layers/one/etc/sub/file': 'file\n',
    'layers/one/etc/gone': 'gone\n',
    'layers/one/old/a': 'a\n',
    'layers/one/old/b': 'b\n',
    'layers/one/to-etc': '->/etc',
    'layers/one/out': '->/../../host/secret',
    'layers/one/vol': null,
    'base/proc': null,
    'data/upper': null,
    'data/work': null,
    run: null,
    'volume/in': 'in\n',
    'host/secret': 'secret\n',
    'host/tree/one': 'one\n',
    'host/tree/sub/two': 'two\n',
    'host/tree/link': '->one',
  });
  const mount = {
    type: 'bind' as const,
    source: `${top}/volume`,
    target: '/vol',
    readOnly: false,
    file: false,
  };
  place = {
    ...{ id: '0'.repeat(64), name: 'still', directory: `${top}/run`, dataDirectory: `${top}/data` },
    record: { name: 'still', mounts: [mount] } as unknown as ContainerRecord,
    config: {
      root: { layers: `${top}/layers`, lower: ['one'], base: `${top}/base`, state: `${top}/data` },
    } as ViewPlace['config'],
    readOnlyRoot: false,
  };
});
afterEach(() => {
  fs.rmSync(top, { recursive: true, force: true });
});

describe.runIf(root)('copyOut, by what lies at the destination', () => {
  test.each([
    ['a file to a new name', '/etc/conf', 'new', { new: 'conf\n' }],
    ['a file over a file', 'etc/conf', 'secret', { secret: 'conf\n' }],
    ['a file into a directory', '/etc/conf', 'tree/sub', { 'tree/sub/conf': 'conf\n' }],
    ['a directory to a new name', '/etc/sub', 'new', { 'new/file': 'file\n' }],
    ['a directory into one', '/etc/sub', 'tree', { 'tree/sub/file': 'file\n' }],
    ['its contents into one', '/etc/sub/.', 'tree', { 'tree/file': 'file\n' }],
    ['by a link in the middle', '/to-etc/conf', 'new', { new: 'conf\n' }],
    ['a link itself', '/to-etc', 'new', { new: '->/etc' }],
    ['out of a volume', '/vol/in', 'new', { new: 'in\n' }],
    ['names with a meaning for sed', '/etc/conf', 'a|b&\\1', { 'a|b&\\1': 'conf\n' }],
  ])('%s', async (_, from, to, expected) => {
    const before = tree(`${top}/host`);
    expect(await out(from, host(to))).toBeGreaterThan(0);
    expect(tree(`${top}/host`)).toEqual({ ...before, ...expected });
    expect(fs.readdirSync(`${top}/run`)).toEqual(['lock', 'view']);
  });

  test.each([
    [
      '/no/such',
      'new',
      'ERR_CONTAINER_PATH_NOT_FOUND',
      /Could not find the file \/no\/such in container still/,
    ],
    ['/etc/sub', 'secret', 'ERR_COPY', /cannot copy directory/],
    ['/etc/conf', 'no/new', 'ERR_COPY', /does not exist/],
    ['/etc/conf', 'no/', 'ERR_COPY', /does not exist or is not a directory/],
    ['/etc/conf/', 'new', 'ERR_CONTAINER_PATH', /not a directory/],
    ['/out/', 'new', 'ERR_CONTAINER_PATH_NOT_FOUND', /Could not find/],
  ])('%s to %s is refused', async (from, to, code, message) => {
    const before = tree(`${top}/host`);
    const error = await out(from, `${top}/host/${to}`).catch((caught: unknown) => caught);
    expect(error).toMatchObject({ code });
    expect((error as Error).message).toMatch(message);
    expect(tree(`${top}/host`)).toEqual(before);
  });

  test('owners are kept with `archive` only', async () => {
    fs.chownSync(`${top}/layers/one/etc/conf`, 12, 34);
    await out('/etc/conf', host('plain'));
    await out('/etc/conf', host('archive'), { archive: true });
    const owner = (name: string) => [fs.statSync(host(name)).uid, fs.statSync(host(name)).gid];
    expect([owner('plain'), owner('archive')]).toEqual([
      [0, 0],
      [12, 34],
    ]);
  });

  test('a link that is followed leads to nothing outside', async () => {
    await expect(out('/out', host('new'), { followLink: true })).rejects.toMatchObject({
      code: 'ERR_CONTAINER_PATH_NOT_FOUND',
    });
    await out('/to-etc', host('new'), { followLink: true });
    expect(tree(host('new'))).toEqual({ conf: 'conf\n', 'sub/file': 'file\n', gone: 'gone\n' });
  });

  test('archives carry the name, or not', async () => {
    expect(listOf(await collect(await readArchive(place, '/etc/sub', {})))).toEqual([
      'sub/',
      'sub/file',
    ]);
    expect(listOf(await collect(await readArchive(place, '/etc/sub/.', {})))).toEqual([
      './',
      './file',
    ]);
    expect(listOf(await collect(await readArchive(place, '/etc/conf', {})))).toEqual(['conf']);
  });
});

describe.runIf(root)('copyIn', () => {
  test.each([
    ['a file to a new name', 'secret', '/new', { new: 'secret\n' }],
    ['a file over a file', 'secret', '/etc/conf', { 'etc/conf': 'secret\n' }],
    ['a file into a directory', 'secret', '/etc', { 'etc/secret': 'secret\n' }],
    ['a file by a link to a directory', 'secret', '/to-etc', { 'etc/secret': 'secret\n' }],
    ['a file where a link leads', 'secret', '/to-etc/new', { 'etc/new': 'secret\n' }],
    ['a link itself', 'tree/link', '/new', { new: '->one' }],
    ['a directory to a new name', 'tree/sub', '/new', { 'new/two': 'two\n' }],
    ['a directory into one', 'tree/sub', '/etc', { 'etc/sub/two': 'two\n' }],
    ['its contents into one', 'tree/sub/.', '/etc', { 'etc/two': 'two\n' }],
    // Inside: what the link says is taken from the container's root.
    ['where a link leads out', 'secret', '/out', { 'host/secret': 'secret\n' }, ['host']],
  ])('%s', async (_, from, to, expected, directories: string[] = []) => {
    make(upper(), Object.fromEntries(directories.map((name) => [name, null])));
    await into(host(from), to);
    expect(tree(upper())).toEqual(expected);
    expect(tree(`${top}/layers/one/etc`)).toMatchObject({ conf: 'conf\n' });
  });

  test('into a volume', async () => {
    await into(host('secret'), '/vol/new');
    expect(tree(`${top}/volume`)).toEqual({ in: 'in\n', new: 'secret\n' });
    expect(tree(upper())).toEqual({});
  });

  test.each([
    ['tree', '/etc/conf', 'ERR_COPY', /cannot copy directory/],
    ['secret', '/no/new', 'ERR_CONTAINER_PATH_NOT_FOUND', /Could not find the file \/no/],
    ['secret', '/new/', 'ERR_CONTAINER_PATH_NOT_FOUND', /Could not find the file/],
    ['no', '/new', 'ERR_COPY', /lstat .*no: no such file or directory/],
  ])('%s to %s is refused', async (from, to, code, message) => {
    const error = await into(host(from), to).catch((caught: unknown) => caught);
    expect(error).toMatchObject({ code });
    expect((error as Error).message).toMatch(message);
    expect(tree(upper())).toEqual({});
  });

  test('what is copied is of root, and keeps its owner with `archive`', async () => {
    fs.chownSync(host('secret'), 12, 34);
    await into(host('secret'), '/plain');
    await into(host('secret'), '/archive', { archive: true });
    const owner = (name: string) => [
      fs.statSync(`${upper()}/${name}`).uid,
      fs.statSync(`${upper()}/${name}`).gid,
    ];
    expect([owner('plain'), owner('archive')]).toEqual([
      [0, 0],
      [12, 34],
    ]);
  });

  test('a read-only root is not written to, but its volumes are', async () => {
    place.readOnlyRoot = true;
    await expect(into(host('secret'), '/etc')).rejects.toThrow(
      'container rootfs is marked read-only',
    );
    await into(host('secret'), '/vol');
    place.record.mounts[0]!.readOnly = true;
    place.readOnlyRoot = false;
    await expect(into(host('secret'), '/vol/new')).rejects.toThrow(/Read-only file system/);
  });

  test('an archive is unpacked where it says; a hostile one reaches nothing else', async () => {
    make(top, { 'evil/d/file': 'evil\n', 'evil/secret': 'evil\n' });
    const pack = (...args: string[]) =>
      Readable.from([execFileSync('tar', ['-c', '-P', '-C', `${top}/evil`, ...args])]);
    await writeArchive(place, '/etc', pack('d'), {});
    expect(tree(upper())).toEqual({ 'etc/d/file': 'evil\n' });
    make(upper(), { 'etc/link': `->${top}/host` });
    await writeArchive(place, '/etc', pack('--transform=s,^,link/,', 'secret'), {}).catch(() => {});
    await writeArchive(place, '/etc', pack('--transform=s,^,../../../host/,', 'secret'), {}).catch(
      () => {},
    );
    await writeArchive(place, '/etc', pack(`--transform=s,^,${top}/host/,`, 'secret'), {}).catch(
      () => {},
    );
    expect(fs.readFileSync(host('secret'), 'utf8')).toBe('secret\n');
    await expect(
      writeArchive(place, '/etc', Readable.from([Buffer.alloc(2000, 1)]), {}),
    ).rejects.toMatchObject({ code: 'ERR_COPY' });
    await expect(writeArchive(place, '/etc/conf', pack('d'), {})).rejects.toThrow(
      /not a directory/,
    );
  });
});

describe.runIf(root)('changes and archives', () => {
  /** Changes the container's files as a guest does, by an overlay. */
  function change(script: string): void {
    fs.mkdirSync(`${top}/merged`);
    const options = `lowerdir=${top}/layers/one:${top}/base,upperdir=${upper()},workdir=${top}/data/work`;
    execFileSync('unshare', [
      '-m',
      'sh',
      '-ec',
      `mount -t overlay overlay -o ${options} ${top}/merged; cd ${top}/merged; ${script}`,
    ]);
  }

  test('nothing, additions, changes, deletions, and what took the place of something else', async () => {
    expect(await containerChanges(place)).toEqual([]);
    change(`echo x > new; mkdir dir; echo y > dir/file; rm etc/gone; echo z >> etc/conf; chmod 700 vol
      rm -r old; mkdir old; echo c > old/c; echo a > old/a; rm to-etc; mkdir to-etc; echo n > to-etc/n; rm -r etc/sub; echo f > etc/sub
      mknod null c 1 3`);
    const changes = await containerChanges(place);
    expect(changes.map(({ kind, path: file }) => `${kind} ${file}`)).toEqual([
      ...[
        'A /dir',
        'A /dir/file',
        'C /etc',
        'C /etc/conf',
        'D /etc/gone',
        'C /etc/sub',
        'A /new',
        'A /null',
      ],
      ...['C /old', 'C /old/a', 'D /old/b', 'A /old/c', 'C /to-etc', 'A /to-etc/n', 'C /vol'],
    ]);
  });

  test('export has everything but volumes, under names without ./', async () => {
    change('rm -r old; echo x > new; ln new hard');
    const archive = await collect(await exportContainer(place));
    expect(listOf(archive)).toEqual([
      ...[
        'etc/',
        'etc/conf',
        'etc/gone',
        'etc/sub/',
        'etc/sub/file',
        'hard',
        'new',
        'out',
        'proc/',
        'to-etc',
        'vol/',
      ],
    ]);
  });

  test('a container that is being started is waited for', async () => {
    const { loadAddon } = await import('../../../src/vm/native.js');
    fs.mkdirSync(`${top}/run`, { recursive: true });
    const lock = loadAddon().lockFile(`${top}/run/lock`, false);
    setTimeout(() => fs.closeSync(lock), 300);
    expect(await containerChanges(place)).toEqual([]);
  });
});

describe('members of a layer', () => {
  test('whiteouts are what tar reads, whatever their names', () => {
    const names = ['gone', 'etc/gone', `${'d'.repeat(90)}/${'long'.repeat(20)}`, 'ü'];
    const archive = Buffer.concat([
      whiteouts(names.map((name) => Buffer.from(name))),
      Buffer.alloc(1024),
    ]);
    const listed = execFileSync('tar', ['-t', '--quoting-style=literal'], {
      input: archive,
    }).toString();
    expect(listed.trimEnd().split('\n')).toEqual(
      names.map((name) => name.replace(/([^/]*)$/, '.wh.$1')),
    );
  });

  test('literal', () => {
    expect(literal('a|b&\\c\nd')).toBe('a\\|b\\&\\\\c\\nd');
  });

  test('the config of a commit is how the container was run', () => {
    const image = {
      Entrypoint: ['/entry'],
      Cmd: ['arg'],
      Env: ['PATH=/bin'],
      ExposedPorts: { '80/tcp': {} },
    };
    const record = {
      args: ['/entry', 'other'],
      labels: { a: 'b' },
      tty: false,
    } as unknown as ContainerRecord;
    const spec = {
      process: { args: [], env: ['PATH=/bin', 'HOSTNAME=h', 'A=b'], cwd: '/w' },
      hostname: 'h',
    } as unknown as OciSpec;
    expect(runConfigOf(record, spec, image)).toEqual({
      ...{ Entrypoint: ['/entry'], Cmd: ['other'], Env: ['PATH=/bin', 'A=b'], WorkingDir: '/w' },
      ...{ Labels: { a: 'b' }, ExposedPorts: { '80/tcp': {} } },
    });
    expect(runConfigOf({ ...record, args: ['sh'] }, spec, image)).toMatchObject({ Cmd: ['sh'] });
    expect(runConfigOf({ ...record, args: ['sh'] }, spec, image)).not.toHaveProperty('Entrypoint');
  });
});
