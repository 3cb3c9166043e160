// Writes the seeds of test/fuzz/snapshot_fuzz.cc to test/fuzz/corpus/snapshot: one for each part that it has. Run it after a
// change of a format:
//   node test/fuzz/make_snapshot_corpus.mjs
import { mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const directory = fileURLToPath(new URL('corpus/snapshot/', import.meta.url));

class Writer {
  parts = [];
  bytes(...values) {
    this.parts.push(Buffer.from(values));
    return this;
  }
  u32(value) {
    const part = Buffer.alloc(4);
    part.writeUInt32LE(value >>> 0);
    this.parts.push(part);
    return this;
  }
  u64(value) {
    const part = Buffer.alloc(8);
    part.writeBigUInt64LE(BigInt(value));
    this.parts.push(part);
    return this;
  }
  text(value) {
    const bytes = Buffer.from(value);
    this.u32(bytes.length).parts.push(bytes);
    return this;
  }
  pad(size) {
    this.parts.push(Buffer.alloc(size - this.finish().length));
    return this;
  }
  finish() {
    return Buffer.concat(this.parts);
  }
}

/** native/vmm/template.cc: Header, with an origin of zeroes but for a memory of 1 MiB; two extents of a page each, some state. */
function file(magic, version) {
  const head = new Writer();
  const state = 'state';
  const size = 304 + 4 + 2 * 24 + 4 + state.length;
  head.parts.push(Buffer.from(magic));
  head.u32(version).u32(size).u32(0).u32(0).u64(4096).u64(0);
  head
    .pad(304 - 16)
    .u64(1 << 20)
    .u32(0)
    .u32(0);
  head.u32(2).u64(0).u64(4096).u64(4096).u64(0x10000).u64(4096).u64(8192);
  head.text(state).pad(4096);
  return Buffer.concat([Buffer.from([0]), head.finish(), Buffer.alloc(8192, 0x5a)]);
}

const kPath = 0;
const kNameless = 1;

/** native/p9/session_state.cc: a directory that was walked to, an open file (at `place` in the window), one without a name, a lock. */
function session(flags, place = 0) {
  const out = new Writer().bytes(1, flags).bytes(1).u32(8192).u32(1).u64(1);
  const node = (qid, mode, place, path) => out.u64(qid).u32(mode).bytes(place).text(path);
  out.u32(4);
  node(1, 0o40000, kPath, '');
  node(2, 0o40000, kPath, 'dir');
  node(3, 0o100000, kPath, 'file');
  node(4, 0o100000, kNameless, 'gone');
  out.u32(0o100644).u32(0).u32(0).u32(0).u64(0).u64(10).u64(1).u64(0).u64(1).u64(0).text('');
  out
    .u64(0)
    .u64(4)
    .bytes(...Buffer.from('data'))
    .u64(0)
    .u64(0);
  const fid = (number, index, kind, open, window = 0) =>
    out
      .u32(number)
      .u32(0)
      .u32(index)
      .u32(0)
      .u32(open)
      .u32(window)
      .bytes(kind, 0, 0, 0)
      .text('name');
  out.u32(5);
  fid(0, 0, 0, 0);
  fid(1, 1, 2, 0);
  fid(2, 2, 1, 2, place);
  fid(3, 3, 1, 2);
  fid(4, 2, 3, 0).text('user.a').u64(3).u32(0).text('abc');
  out.u32(1).u32(2).u32(1).u64(0).u64(100);
  return out.finish();
}

const seeds = {
  template: file('CLEARVMT', 4),
  snapshot: file('CLEARVMS', 2),
  files: session(0),
  'files-xattrs': session(1),
  'files-root': session(2),
  'files-window': session(4, 1),
  processes: new Writer()
    .bytes(2)
    .u32(7)
    .u32(2)
    .u32(6)
    .bytes(1, 0, 0, 0)
    .u32(7)
    .bytes(0, 1, 0, 0)
    .finish(),
};
mkdirSync(directory, { recursive: true });
for (const [name, bytes] of Object.entries(seeds)) writeFileSync(directory + name, bytes);
