// Makes the vmlinux that is loaded out of the one that the linker writes.
//
// The linker aligns sections to 2 MiB, in memory, so that each gets huge pages and protection of its own, and in the file. What
// lies between is padding: int3 in the text, zeros in the data, more than half of the whole. A loader that copies it makes the host
// back megabytes that the guest never looks at, at every boot. Here the padding leaves the file: a segment
// is split at each long run of padding pages, which becomes the zero-filled tail (p_memsz beyond p_filesz) of the part before it.
// Guest-physical addresses stay as they are. int3 padding thereby reads as zeros; nothing jumps there. The notes stay findable: other
// VMMs look for the PVH entry point there.
//
// Format: System V ABI, "Object Files", and its AMD64 supplement.

const PAGE = 4096;
/** Shorter runs are kept: a program header is not worth them. */
const MIN_RUN = 4 * PAGE;
/** What the VMM's loader accepts (native/boot/elf.cc). */
export const MAX_SEGMENTS = 64;

const EHDR_SIZE = 64;
const PHDR_SIZE = 56;
const PT_LOAD = 1;
const PT_NOTE = 4;

/** The program headers of one type, with their bytes. */
function readSegments(file, type) {
  if (
    file.length < EHDR_SIZE ||
    file.readUInt32BE(0) !== 0x7f454c46 ||
    file[4] !== 2 ||
    file[5] !== 1
  ) {
    throw new Error('not a 64-bit little-endian ELF file');
  }
  const offset = Number(file.readBigUInt64LE(32));
  const count = file.readUInt16LE(56);
  const segments = [];
  for (let i = 0; i < count; i += 1) {
    const header = file.subarray(offset + i * PHDR_SIZE, offset + (i + 1) * PHDR_SIZE);
    if (header.readUInt32LE(0) !== type) continue;
    const fileOffset = Number(header.readBigUInt64LE(8));
    segments.push({
      flags: header.readUInt32LE(4),
      virtual: header.readBigUInt64LE(16),
      physical: header.readBigUInt64LE(24),
      bytes: file.subarray(fileOffset, fileOffset + Number(header.readBigUInt64LE(32))),
      memorySize: Number(header.readBigUInt64LE(40)),
      alignment: header.readBigUInt64LE(48),
    });
  }
  return segments;
}

function isPadding(page) {
  const fill = page[0];
  return (fill === 0 || fill === 0xcc) && page.every((byte) => byte === fill);
}

/** The parts of a segment that are not padding, as [start, end) offsets into it, page-aligned at their seams. */
function usedRanges(bytes) {
  const ranges = [];
  let start = 0;
  let run = -1;
  for (let at = 0; at <= bytes.length; at += PAGE) {
    const last = at + PAGE > bytes.length;
    if (!last && isPadding(bytes.subarray(at, at + PAGE))) {
      if (run < 0) run = at;
      continue;
    }
    if (run >= 0 && at - run >= MIN_RUN) {
      if (run > start) ranges.push([start, run]);
      start = at;
    }
    run = -1;
  }
  if (start < bytes.length) ranges.push([start, bytes.length]);
  return ranges;
}

function splitSegment(segment) {
  const ranges = usedRanges(segment.bytes);
  // Padding at the very beginning still belongs to the segment's memory.
  if (ranges.length === 0 || ranges[0][0] > 0) ranges.unshift([0, 0]);
  return ranges.map(([start, end], index) => ({
    flags: segment.flags,
    virtual: segment.virtual + BigInt(start),
    physical: segment.physical + BigInt(start),
    bytes: segment.bytes.subarray(start, end),
    memorySize: (ranges[index + 1]?.[0] ?? segment.memorySize) - start,
    alignment: BigInt(PAGE),
  }));
}

/**
 * Packs a vmlinux. The result has program headers only, for what is loaded and for the notes in it: no sections, no symbols.
 *
 * @param {Buffer} vmlinux as linked
 * @returns {Buffer} an ELF file that puts the same bytes, padding aside, at the same addresses
 * @throws {Error} if the input is not such a file, or has more parts than the loader takes
 */
export function packKernel(vmlinux) {
  const segments = readSegments(vmlinux, PT_LOAD).flatMap(splitSegment);
  const notes = readSegments(vmlinux, PT_NOTE);
  if (segments.length === 0) throw new Error('there is nothing to load in it');
  if (segments.length + notes.length > MAX_SEGMENTS) {
    throw new Error(
      `it has ${segments.length + notes.length} parts, and the loader takes ${MAX_SEGMENTS}`,
    );
  }
  const align = (offset) => Math.ceil(offset / PAGE) * PAGE;
  const count = segments.length + notes.length;
  const headers = Buffer.alloc(align(EHDR_SIZE + count * PHDR_SIZE));
  vmlinux.copy(headers, 0, 0, EHDR_SIZE);
  headers.writeBigUInt64LE(BigInt(EHDR_SIZE), 32); // e_phoff
  headers.writeBigUInt64LE(0n, 40); // e_shoff
  headers.writeUInt16LE(count, 56); // e_phnum
  headers.fill(0, 58, 64); // e_shentsize, e_shnum, e_shstrndx

  const chunks = [headers];
  let end = headers.length;
  const place = (segment) => {
    const size = align(segment.bytes.length);
    chunks.push(segment.bytes, Buffer.alloc(size - segment.bytes.length));
    end += size;
    return { ...segment, type: PT_LOAD, offset: end - size };
  };
  const loaded = segments.map(place);
  const found = notes.map((note) => {
    const home = loaded.find(
      ({ virtual, bytes }) =>
        note.virtual >= virtual &&
        note.virtual + BigInt(note.bytes.length) <= virtual + BigInt(bytes.length),
    );
    if (home === undefined) throw new Error('it has notes outside of what is loaded');
    return { ...note, type: PT_NOTE, offset: home.offset + Number(note.virtual - home.virtual) };
  });
  [...loaded, ...found].forEach((segment, index) => {
    const header = headers.subarray(EHDR_SIZE + index * PHDR_SIZE);
    header.writeUInt32LE(segment.type, 0);
    header.writeUInt32LE(segment.flags, 4);
    header.writeBigUInt64LE(BigInt(segment.offset), 8);
    header.writeBigUInt64LE(segment.virtual, 16);
    header.writeBigUInt64LE(segment.physical, 24);
    header.writeBigUInt64LE(BigInt(segment.bytes.length), 32);
    header.writeBigUInt64LE(BigInt(segment.memorySize), 40);
    header.writeBigUInt64LE(segment.alignment, 48);
  });
  return Buffer.concat(chunks);
}
