// Does to a linked vmlinux, once, what the kernel would find itself doing at every boot. CONFIG_CLEARVM_SETTLED (our patch) has the
// kernel accept it as done; without it this must not run.
//
// - Returns. With return thunks compiled in, each `ret` is a jump to a thunk that has nothing but a `ret`, and the kernel writes plain
//   returns over all 20,000 of them unless the CPU is one that needs the thunks. Here the plain returns are written; on such a CPU
//   the kernel writes the jumps.
// - The jump table (static branches), which the kernel sorts.
//
// Formats: arch/x86/kernel/alternative.c (apply_returns), include/linux/jump_label.h (struct jump_entry) of Linux 6.1.

const SHDR_SIZE = 64;
const SYMBOL_SIZE = 24;
const SHT_NOBITS = 8;
const JUMP_OPCODE = 0xe9; // JMP rel32
const SETTLED_RETURN = Buffer.from([0xc3, 0xcc, 0xcc, 0xcc, 0xcc]); // RET, INT3 ...
const JUMP_ENTRY_SIZE = 16; // s32 code, s32 target, s64 key; each relative to its own address
const JUMP_KEY_FLAGS = 3n;

/** The sections of a 64-bit little-endian ELF file, by name. */
function readSections(file) {
  const start = Number(file.readBigUInt64LE(40));
  const count = file.readUInt16LE(60);
  const headers = Array.from({ length: count }, (_, index) => {
    const header = file.subarray(start + index * SHDR_SIZE, start + (index + 1) * SHDR_SIZE);
    return {
      name: header.readUInt32LE(0),
      address: header.readBigUInt64LE(16),
      offset: Number(header.readBigUInt64LE(24)),
      size: header.readUInt32LE(4) === SHT_NOBITS ? 0 : Number(header.readBigUInt64LE(32)),
    };
  });
  const names = headers[file.readUInt16LE(62)];
  return headers.map((header) => {
    const at = names.offset + header.name;
    return { ...header, name: file.toString('latin1', at, file.indexOf(0, at)) };
  });
}

/** Where in the file the byte of this address is. */
function offsetOf(sections, address) {
  const home = sections.find(
    (section) =>
      section.address !== 0n &&
      address >= section.address &&
      address < section.address + BigInt(section.size),
  );
  if (home === undefined) throw new Error(`nothing is at 0x${address.toString(16)}`);
  return home.offset + Number(address - home.address);
}

/** The address of a global symbol. */
function addressOf(file, sections, wanted) {
  const symbols = sections.find(({ name }) => name === '.symtab');
  const names = sections.find(({ name }) => name === '.strtab');
  for (let at = 0; at < (symbols?.size ?? 0); at += SYMBOL_SIZE) {
    const name = names.offset + file.readUInt32LE(symbols.offset + at);
    if (file.toString('latin1', name, name + wanted.length + 1) === `${wanted}\0`) {
      return file.readBigUInt64LE(symbols.offset + at + 8);
    }
  }
  throw new Error(`it has no symbol ${wanted}`);
}

function settleReturns(file, sections) {
  const sites = sections.find(({ name }) => name === '.return_sites');
  if (sites === undefined) throw new Error('it has no .return_sites');
  let thunk;
  for (let at = 0; at < sites.size; at += 4) {
    const site = sites.address + BigInt(at) + BigInt(file.readInt32LE(sites.offset + at));
    const offset = offsetOf(sections, site);
    const target = site + 5n + BigInt(file.readInt32LE(offset + 1));
    thunk ??= target;
    if (file[offset] !== JUMP_OPCODE || target !== thunk) {
      throw new Error(`the return at 0x${site.toString(16)} is no jump to the return thunk`);
    }
    SETTLED_RETURN.copy(file, offset);
  }
}

function sortJumpTable(file, sections) {
  const start = addressOf(file, sections, '__start___jump_table');
  const size = Number(addressOf(file, sections, '__stop___jump_table') - start);
  const first = offsetOf(sections, start);
  const entries = [];
  for (let at = 0; at < size; at += JUMP_ENTRY_SIZE) {
    const address = start + BigInt(at);
    const offset = first + at;
    entries.push({
      code: address + BigInt(file.readInt32LE(offset)),
      target: address + 4n + BigInt(file.readInt32LE(offset + 4)),
      key: address + 8n + file.readBigInt64LE(offset + 8),
    });
  }
  const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  entries.sort(
    (a, b) => compare(a.key & ~JUMP_KEY_FLAGS, b.key & ~JUMP_KEY_FLAGS) || compare(a.code, b.code),
  );
  entries.forEach(({ code, target, key }, index) => {
    const address = start + BigInt(index * JUMP_ENTRY_SIZE);
    const offset = first + index * JUMP_ENTRY_SIZE;
    file.writeInt32LE(Number(code - address), offset);
    file.writeInt32LE(Number(target - address - 4n), offset + 4);
    file.writeBigInt64LE(key - address - 8n, offset + 8);
  });
}

/**
 * Settles a vmlinux.
 *
 * @param {Buffer} vmlinux as linked, with sections
 * @returns {Buffer} a copy with the same layout
 * @throws {Error} if it is not built as the kernel's patch expects
 */
export function settleKernel(vmlinux) {
  const file = Buffer.from(vmlinux);
  const sections = readSections(file);
  settleReturns(file, sections);
  sortJumpTable(file, sections);
  return file;
}
