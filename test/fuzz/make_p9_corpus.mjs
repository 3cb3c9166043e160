// Writes the seeds of test/fuzz/p9_fuzz.cc to test/fuzz/corpus/p9: programs in the fuzzer's input format (see there)
// that take each of the server's paths once. Run it after a change of that format:
//   node test/fuzz/make_p9_corpus.mjs
import { mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const directory = fileURLToPath(new URL('corpus/p9/', import.meta.url));

// As in p9_fuzz.cc: the position in kSchemas, and in kNames.
const messages = [
  'version attach flush walk lopen lcreate read write readdir getattr setattr statfs mkdir mknod',
  'symlink readlink link rename renameat unlinkat remove fsync lock getlock xattrwalk xattrcreate',
  'clunk auth',
]
  .join(' ')
  .split(' ');
const names = [
  ...['a', 'b', 'dir', 'file', 'link', 'fifo', '..', '.', '', 'a/b', 'user.a'],
  ...['user.clearvm.stat', 'trusted.overlay.x', 'system.posix_acl_access'],
  ...['security.capability', '9P2000.L'],
];

const u32 = (value) => [value & 255, (value >> 8) & 255, (value >> 16) & 255, (value >>> 24) & 255];
const q = (value) => [value & 255, value >> 8];
const n = (name) => names.indexOf(name);
const op = (type, ...operands) => [messages.indexOf(type) + 1, ...operands.flat()];
const walk = (from, to, ...path) => op('walk', from, to, path.length, path.map(n));
const data = (text) => [text.length, ...Buffer.from(text)];

const modes = { directory: 0o40755, regular: 0o100644, fifo: 0o10644, character: 0o20600 };
const host = 0;
const readOnly = 1;
const xattrs = 2;

const files = [
  walk(0, 1),
  op('lcreate', 1, n('a'), u32(2), u32(0o6755), 7),
  op('write', 1, q(0), data('some text')),
  op('read', 1, q(2), u32(100)),
  op('fsync', 1, 0),
  op('getattr', 1, q(0x3fff)),
  op('setattr', 1, 0xff, u32(0o4711), 3, 4, q(5), q(6), q(7), q(8), q(9)),
  op('lock', 1, 1, 0, q(0), q(10), 1, n('a')),
  op('getlock', 1, 0, q(0), q(0), 1, n('a')),
  op('unlinkat', 0, n('a'), u32(0)),
  op('read', 1, q(0), u32(100)),
  op('clunk', 1),
];
const listing = [
  walk(0, 1, 'dir', 'a', '..', '..', '..'),
  op('lopen', 1, u32(0o200000)),
  op('readdir', 1, q(0), u32(4000)),
  op('readdir', 1, q(0), u32(60)),
  op('readdir', 1, q(3), u32(4000)),
  op('statfs', 1),
];
const naming = [
  op('mkdir', 0, n('a'), u32(modes.directory), 1),
  op('mknod', 0, n('b'), u32(modes.character), 1, 3, 0),
  op('symlink', 0, n('user.a'), n('..'), 0),
  walk(0, 1, 'file'),
  op('link', 0, 1, n('9P2000.L')),
  op('renameat', 0, n('a'), 0, n('trusted.overlay.x')),
  op('rename', 1, 0, n('a')),
  walk(0, 2, 'user.a'),
  op('readlink', 2),
  op('remove', 1),
  op('unlinkat', 0, n('dir'), u32(0x200)),
  walk(0, 3, 'b'),
  op('lopen', 3, u32(2)),
  walk(0, 4, 'link'),
  op('lopen', 4, u32(2)),
];
const attributes = [
  walk(0, 1, 'file'),
  op('xattrcreate', 1, n('user.a'), q(5), 0),
  op('write', 1, q(0), data('value')),
  op('clunk', 1),
  walk(0, 1, 'file'),
  op('xattrwalk', 1, 2, n('user.a')),
  op('read', 2, q(1), u32(3)),
  op('xattrwalk', 1, 3, n('')),
  op('read', 3, q(0), u32(300)),
  op('clunk', 2),
  op('xattrcreate', 1, n('user.a'), q(0), 2),
  op('clunk', 1),
];
const session = [
  op('flush', 1),
  op('auth', 1, n(''), n('')),
  op('attach', 1, 0xff, n(''), n(''), 5),
  op('version', 0xff, n('9P2000.L')),
  op('attach', 0, 0xff, n(''), n(''), 0),
  [0, 5, 11, 11, 0, 0, 0, 120, 1, 0, 0, 0, 0, 0],
];

mkdirSync(directory, { recursive: true });
for (const [name, setup, program] of [
  ['files', host, files],
  ['files-read-only', readOnly, files],
  ['files-xattrs', xattrs, files],
  ['files-scattered', host | (13 << 2), files],
  ['listing', host, listing],
  ['listing-xattrs', xattrs, listing],
  ['naming', host, naming],
  ['naming-xattrs', xattrs, naming],
  ['attributes', host, attributes],
  ['attributes-xattrs', xattrs, attributes],
  ['session', host, session],
]) {
  writeFileSync(`${directory}${name}`, Buffer.from([setup, ...program.flat()]));
}
