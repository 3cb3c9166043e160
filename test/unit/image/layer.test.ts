import fs from 'node:fs';
import path from 'node:path';

import { describe, expect, test } from 'vitest';

import { ImageStore, type ResolvedImage } from '../../../src/image/index.js';
import {
  failure,
  layout,
  run,
  snapshot,
  tar,
  temporary,
  withOverlay,
  type Member,
} from './fixtures.js';

/** Loads an image of these layers and resolves it. */
async function loaded(layers: Buffer[]): Promise<ResolvedImage> {
  const store = new ImageStore({ root: path.join(temporary(), 'store') });
  await store.load(layout(path.join(temporary(), 'test'), layers));
  return store.resolve('test');
}

function layerPath(image: ResolvedImage, index: number): string {
  return path.join(image.layersDir, image.layers[index]?.name ?? '');
}

/** A tree with one of everything that a layer can hold. */
function everything(): string {
  const root = path.join(temporary(), 'tree');
  fs.mkdirSync(root);
  const at = (name: string) => path.join(root, name);
  fs.writeFileSync(at('plain'), 'text');
  fs.writeFileSync(at('empty'), '');
  fs.writeFileSync(at('setuid'), 'x');
  fs.chmodSync(at('setuid'), 0o4755);
  fs.writeFileSync(at('setgid'), 'x');
  fs.chmodSync(at('setgid'), 0o2711);
  fs.writeFileSync(at('none'), 'x');
  fs.chmodSync(at('none'), 0);
  fs.mkdirSync(at('sticky'));
  fs.chmodSync(at('sticky'), 0o1777);
  fs.mkdirSync(at('dir/deeper'), { recursive: true });
  fs.writeFileSync(at('dir/deeper/file'), 'y'.repeat(100_000));
  fs.linkSync(at('plain'), at('dir/hard'));
  fs.symlinkSync('/etc/passwd', at('absolute'));
  fs.symlinkSync('../../outside', at('dir/upward'));
  fs.symlinkSync('deeper', at('dir/inside'));
  fs.symlinkSync('l'.repeat(200), at('long-link'));
  fs.linkSync(at('absolute'), at('hard-symlink'));
  run('mknod', at('null'), 'c', '1', '3');
  run('mknod', at('loop'), 'b', '7', '300');
  run('mkfifo', at('fifo'));
  const long = path.join('n'.repeat(255), 'm'.repeat(255), 'o'.repeat(255));
  fs.mkdirSync(path.dirname(at(long)), { recursive: true });
  fs.writeFileSync(at(long), 'long');
  fs.writeFileSync(at('a\nb\\c "d" é'), 'odd');
  fs.writeFileSync(Buffer.concat([Buffer.from(`${root}/`), Buffer.from([0xff, 0xfe])]), 'bytes');
  const sparse = fs.openSync(at('sparse'), 'w');
  fs.writeSync(sparse, 'begin', 1_000_000);
  fs.writeSync(sparse, 'middle', 3_000_000);
  fs.ftruncateSync(sparse, 5_000_000);
  fs.closeSync(sparse);
  run('setfattr', '-n', 'user.one', '-v', 'value', at('plain'));
  run('setfattr', '-n', 'user.binary', '-v', '0x00ff0a3d', at('dir'));
  run('setcap', 'cap_net_raw+ep', at('dir/deeper/file'));
  fs.chownSync(at('dir/deeper'), 1000, 2_500_000);
  fs.lchownSync(at('absolute'), 12, 34);
  run('touch', '-h', '-d', '@1234567890.123456789', at('long-link'), at('dir/deeper/file'));
  run('touch', '-d', '@-86400', at('empty'));
  run('touch', '-d', '@1500000000.5', at('dir'), at('sticky'));
  return root;
}

describe('what a layer keeps', () => {
  test.each(['pax', 'gnu'])('everything, in GNU tar format %s', async (format) => {
    const tree = everything();
    const archive = path.join(temporary(), 'layer.tar');
    const attributes =
      format === 'pax' ? ['--xattrs', '--xattrs-include=*', '--sparse'] : ['--sparse'];
    run(
      'tar',
      `--format=${format}`,
      ...attributes,
      '--numeric-owner',
      '-C',
      tree,
      '-cf',
      archive,
      '.',
    );
    const image = await loaded([fs.readFileSync(archive)]);
    const expected = snapshot(tree);
    if (format === 'gnu') {
      // That format has whole seconds and no xattrs.
      for (const [name, line] of Object.entries(expected)) {
        expected[name] = line
          .replace(/ (user|security)\.\S+/g, '')
          .replace(/(\d{10})\d{9}/, (_, seconds: string) => `${seconds}000000000`);
      }
    }
    expect(snapshot(layerPath(image, 0))).toEqual(expected);
    const sparse = fs.statSync(path.join(layerPath(image, 0), 'sparse'));
    expect(sparse.size).toBe(5_000_000);
    expect(sparse.blocks * 512).toBeLessThan(1_000_000);
  });

  test.each([
    ['gnu', []],
    ['pax', ['--sparse-version=0.0']],
    ['pax', ['--sparse-version=0.1']],
    ['pax', ['--sparse-version=1.0']],
  ])('holes, in GNU tar format %s %j', async (format, version) => {
    const tree = temporary();
    const file = fs.openSync(path.join(tree, 'sparse'), 'w');
    // More pieces than fit one header of the old format.
    for (let i = 1; i <= 60; i++) fs.writeSync(file, `piece ${i}`, i * 100_000);
    fs.closeSync(file);
    const archive = path.join(temporary(), 'layer.tar');
    run('tar', `--format=${format}`, '--sparse', ...version, '-C', tree, '-cf', archive, '.');
    const image = await loaded([fs.readFileSync(archive)]);
    const [line] = Object.values(snapshot(layerPath(image, 0)));
    expect(line?.split(' ').slice(4)).toEqual(
      Object.values(snapshot(tree))[0]?.split(' ').slice(4),
    );
    const { blocks } = fs.statSync(path.join(layerPath(image, 0), 'sparse'));
    expect(blocks * 512).toBeLessThan(1_000_000);
  });

  test('what umoci makes of the same layout', async () => {
    const tree = everything();
    // umoci gives up on device nodes with large numbers less gracefully than tar, and keeps whole seconds.
    fs.rmSync(path.join(tree, 'loop'));
    run('find', tree, '-exec', 'touch', '-h', '-d', '@1600000000', '{}', '+');
    const archive = path.join(temporary(), 'layer.tar');
    run('tar', '--format=pax', '--numeric-owner', '-C', tree, '-cf', archive, '.');
    const directory = layout(path.join(temporary(), 'test'), [fs.readFileSync(archive)]);
    const bundle = path.join(temporary(), 'bundle');
    run('umoci', 'unpack', '--image', `${directory}:test:latest`, bundle);
    const store = new ImageStore({ root: path.join(temporary(), 'store') });
    await store.load(directory);
    const image = await store.resolve('test');
    expect(snapshot(layerPath(image, 0))).toEqual(snapshot(path.join(bundle, 'rootfs')));
  });

  test("not overlayfs's own and trusted xattrs", async () => {
    const pax = {
      'SCHILY.xattr.trusted.overlay.redirect': '/elsewhere',
      'SCHILY.xattr.user.overlay.opaque': 'y',
      'SCHILY.xattr.trusted.other': 'x',
      'SCHILY.xattr.user.mine': 'kept',
    };
    const image = await loaded([tar([{ name: 'dir/', type: '5', pax }])]);
    const [line] = Object.values(snapshot(layerPath(image, 0)));
    expect(line).toContain('user.mine=0x6b657074');
    expect(line).not.toMatch(/trusted|overlay/);
  });

  test('the mode and owner of its root, whatever the umask', async () => {
    const previous = process.umask(0o077);
    try {
      const given = tar([
        { name: './', type: '5', mode: 0o750, uid: 7, gid: 8 },
        { name: 'dir/file', mode: 0o666 },
      ]);
      const plain = tar([{ name: 'dir/file', mode: 0o666 }]);
      const image = await loaded([plain, given]);
      const modes = [0, 1].map((i) => fs.statSync(layerPath(image, i)));
      expect(modes.map(({ mode, uid, gid }) => [mode & 0o7777, uid, gid])).toEqual([
        [0o755, 0, 0],
        [0o750, 7, 8],
      ]);
      expect(fs.statSync(path.join(layerPath(image, 0), 'dir/file')).mode & 0o777).toBe(0o666);
    } finally {
      process.umask(previous);
    }
  });

  test('a last member without padding and end marker, as umoci insert writes it', async () => {
    const whole = tar(
      [
        { name: 'a', data: 'x' },
        { name: 'b', data: 'yz' },
      ],
      false,
    );
    const image = await loaded([whole.subarray(0, whole.length - 510)]);
    expect(fs.readFileSync(path.join(layerPath(image, 0), 'b'), 'utf8')).toBe('yz');
  });
});

describe('whiteouts', () => {
  const base: Member[] = [
    { name: 'gone', data: '1' },
    { name: 'kept', data: '2' },
    { name: 'a/', type: '5' },
    { name: 'a/gone', data: '3' },
    { name: 'a/kept', data: '4' },
    { name: 'opaque/', type: '5' },
    { name: 'opaque/old', data: '5' },
    { name: 'opaque/sub/', type: '5' },
    { name: 'opaque/sub/old', data: '6' },
    { name: 'tree/', type: '5' },
    { name: 'tree/x/', type: '5' },
    { name: 'tree/x/y', data: '7' },
    { name: 'file-to-dir', data: '8' },
    { name: 'dir-to-file/', type: '5' },
    { name: 'dir-to-file/in', data: '9' },
    { name: 'again/', type: '5' },
    { name: 'again/old', data: '10' },
    { name: 'back', data: '11' },
  ];
  const change: Member[] = [
    { name: '.wh.gone' },
    { name: 'a/', type: '5', mtime: 1_111_111_111 },
    { name: 'a/.wh.gone' },
    { name: 'a/.wh.never-was' },
    { name: 'opaque/', type: '5', mtime: 1_222_222_222, mode: 0o700 },
    { name: 'opaque/.wh..wh..opq' },
    { name: 'opaque/new', data: 'n' },
    { name: 'opaque/sub/', type: '5' },
    { name: 'opaque/sub/new', data: 'n' },
    { name: '.wh.tree' },
    { name: '.wh.file-to-dir' },
    { name: 'file-to-dir/', type: '5' },
    { name: 'file-to-dir/in', data: 'n' },
    { name: '.wh.dir-to-file' },
    { name: 'dir-to-file', data: 'n' },
    { name: '.wh.back' },
    { name: '.wh.we\nird \\ name' },
  ];
  const last: Member[] = [
    { name: 'back', data: 'new' },
    { name: 'a/later', data: 'l' },
  ];

  test('show what umoci unpacks', async () => {
    const layers = [tar(base), tar(change), tar(last)];
    const directory = layout(path.join(temporary(), 'test'), layers);
    const bundle = path.join(temporary(), 'bundle');
    run('umoci', 'unpack', '--image', `${directory}:test:latest`, bundle);
    const expected = snapshot(path.join(bundle, 'rootfs'));
    const image = await loaded(layers);
    const merged = await withOverlay(image.layersDir, image.lower, snapshot);
    expect(Object.keys(merged)).toEqual(Object.keys(expected));
    // umoci sets the time of a directory when a later layer changes what is in it; the archive does not say so.
    const withoutTimes = (tree: Record<string, string>) =>
      Object.values(tree).map((line) => line.replace(/^(40000 \S+ \S+) \d+/, '$1'));
    expect(withoutTimes(merged)).toEqual(withoutTimes(expected));
  });

  test('become character devices 0/0 and opaque directories, and keep times', async () => {
    const image = await loaded([tar(base), tar(change)]);
    const layer = snapshot(layerPath(image, 1));
    expect(Object.keys(layer).filter((name) => name.includes('.wh.'))).toEqual([]);
    const devices = Object.keys(layer).filter((name) => layer[name]?.startsWith('20000 '));
    expect(devices.sort()).toEqual(
      ['a/gone', 'a/never-was', 'back', 'gone', 'tree', 'we\nird \\ name'].sort(),
    );
    const opaque = Object.keys(layer).filter((name) =>
      layer[name]?.includes('overlay.opaque=0x79'),
    );
    expect(opaque.sort()).toEqual(['file-to-dir', 'opaque']);
    expect(layer['a']).toContain(' 1111111111000000000');
    expect(layer['opaque']).toContain('40000 700 0:0 1222222222000000000');
    expect(fs.readdirSync(path.join(image.layersDir, '..', 'tmp'))).toEqual([]);
  });

  test('a directory that replaces another hides it', async () => {
    const replace = [{ name: '.wh.again' }, { name: 'again/', type: '5' }, { name: 'again/new' }];
    const image = await loaded([tar(base), tar(replace as Member[])]);
    const names = await withOverlay(image.layersDir, image.lower, (merged) =>
      fs.readdirSync(path.join(merged, 'again')),
    );
    expect(names).toEqual(['new']);
  });

  test('an opaque root hides every layer below', async () => {
    const root = tar([{ name: '.wh..wh..opq' }, { name: 'only', data: 'o' }]);
    const image = await loaded([tar(base), tar([{ name: 'x' }]), root, tar([{ name: 'top' }])]);
    expect(image.layers).toHaveLength(2);
    const names = await withOverlay(image.layersDir, image.lower, (merged) =>
      fs.readdirSync(merged),
    );
    expect(names.sort()).toEqual(['only', 'top']);
  });

  test('a layer that is listed twice is mounted once, where it is topmost', async () => {
    const twice = tar([{ name: 'f', data: 'twice' }]);
    const image = await loaded([twice, tar([{ name: 'f', data: 'between' }]), twice]);
    expect(image.layers).toHaveLength(2);
    const text = await withOverlay(image.layersDir, image.lower, (merged) =>
      fs.readFileSync(path.join(merged, 'f'), 'utf8'),
    );
    expect(text).toBe('twice');
  });

  test("AUFS's own files are dropped, hard links into them kept", async () => {
    const image = await loaded([
      tar([
        { name: '.wh..wh.plnk/', type: '5' },
        { name: '.wh..wh.plnk/1.2', data: 'linked' },
        { name: 'f', type: '1', link: '.wh..wh.plnk/1.2' },
        { name: '.wh..wh.aufs' },
        { name: '.wh..wh.plnk/.wh.inner' },
      ]),
    ]);
    expect(fs.readdirSync(layerPath(image, 0))).toEqual(['f']);
    expect(fs.readFileSync(path.join(layerPath(image, 0), 'f'), 'utf8')).toBe('linked');
  });

  test.each(['.wh.', '.wh..', '.wh...', 'dir/.wh...'])(
    'of no name are refused: %s',
    async (name) => {
      const error = await failure(
        loaded([tar([{ name: 'dir/', type: '5' }, { name }])]),
        'ERR_LAYER_PATH_ESCAPE',
      );
      expect(error.message).toContain('whiteout');
    },
  );

  test('by the thousand', async () => {
    const many = Array.from({ length: 5000 }, (_, i) => ({ name: `d/.wh.${i}` }));
    const image = await loaded([tar(base), tar(many)]);
    expect(fs.readdirSync(path.join(layerPath(image, 1), 'd'))).toHaveLength(5000);
  });
});
