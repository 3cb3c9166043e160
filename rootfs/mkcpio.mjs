// Writes the initramfs: a newc cpio archive of init and of the few nodes that it starts with. Its bytes depend on
// init's alone: fixed numbers, owners and times.
//
// node mkcpio.mjs INIT OUT.cpio
import { readFileSync, renameSync, writeFileSync } from 'node:fs';

const DIRECTORY = 0o040000;
const CHARACTER_DEVICE = 0o020000;
const FILE = 0o100000;

/** One entry in newc form (Documentation/driver-api/early-userspace/buffer-format.rst of the kernel). */
function entry(number, { name, mode, content = Buffer.alloc(0), major = 0, minor = 0 }) {
  const nameBytes = Buffer.from(`${name}\0`);
  const links = (mode & DIRECTORY) === DIRECTORY ? 2 : 1;
  const fields = [
    number,
    mode,
    0,
    0,
    links,
    0,
    content.length,
    0,
    0,
    major,
    minor,
    nameBytes.length,
    0,
  ];
  const header = '070701' + fields.map((field) => field.toString(16).padStart(8, '0')).join('');
  return Buffer.concat([pad(Buffer.concat([Buffer.from(header), nameBytes])), pad(content)]);
}

function pad(bytes) {
  return Buffer.concat([bytes, Buffer.alloc((4 - (bytes.length % 4)) % 4)]);
}

const [init, out] = process.argv.slice(2);
const entries = [
  { name: 'dev', mode: DIRECTORY | 0o755 },
  // The kernel opens it for init's stdio.
  { name: 'dev/console', mode: CHARACTER_DEVICE | 0o600, major: 5, minor: 1 },
  // What init says before it has reached the VMM goes there: the kernel's panic hands its log to the VMM.
  { name: 'dev/kmsg', mode: CHARACTER_DEVICE | 0o600, major: 1, minor: 11 },
  // Where init hands the kernel the seed that makes this VM another than its siblings.
  { name: 'dev/random', mode: CHARACTER_DEVICE | 0o600, major: 1, minor: 8 },
  // The container's root is mounted here, and then moved onto /.
  { name: 'root', mode: DIRECTORY | 0o755 },
  { name: 'init', mode: FILE | 0o755, content: readFileSync(init) },
];
const archive = Buffer.concat([
  ...entries.map((item, index) => entry(index + 1, item)),
  entry(0, { name: 'TRAILER!!!', mode: 0 }),
]);
writeFileSync(`${out}.new`, archive);
renameSync(`${out}.new`, out);
