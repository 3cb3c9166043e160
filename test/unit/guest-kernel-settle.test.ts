import { describe, expect, it } from 'vitest';
import { settleKernel } from '../../guest-kernel/settle.mjs';

describe('settleKernel', () => {
  const TEXT = 0xffffffff81000000n;
  const DATA = 0xffffffff81600000n;
  const THUNK = TEXT + 0x80n;
  const TEXT_AT = 0x1000;
  const DATA_AT = 0x2000;
  const SITES_AT = 0x2800;

  /** A jump to `target` that lies at `at` of the text. */
  const jump = (file: Buffer, at: number, target: bigint): void => {
    file.writeUInt8(0xe9, TEXT_AT + at);
    file.writeInt32LE(Number(target - (TEXT + BigInt(at) + 5n)), TEXT_AT + at + 1);
  };

  const writeEntry = (file: Buffer, index: number, code: bigint, key: bigint): void => {
    const address = DATA + BigInt(index * 16);
    const at = DATA_AT + index * 16;
    file.writeInt32LE(Number(code - address), at);
    file.writeInt32LE(Number(code + 0x10n - address - 4n), at + 4);
    file.writeBigInt64LE(key - address - 8n, at + 8);
  };

  const readEntry = (file: Buffer, index: number): bigint[] => {
    const address = DATA + BigInt(index * 16);
    const at = DATA_AT + index * 16;
    return [
      address + BigInt(file.readInt32LE(at)),
      address + 4n + BigInt(file.readInt32LE(at + 4)),
      BigInt.asUintN(64, address + 8n + file.readBigInt64LE(at + 8)),
    ];
  };

  /** A kernel with two returns and a table of three static branches, and the sections and symbols that say so. */
  function link(returns: bigint[] = [THUNK, THUNK]): Buffer {
    const file = Buffer.alloc(0x5000);
    const strings = '\0.text\0.data\0.return_sites\0.symtab\0.strtab\0';
    const symbols = '\0__start___jump_table\0__stop___jump_table\0';
    file.write(strings, 0x3000, 'latin1');
    file.write(symbols, 0x3800, 'latin1');
    [0x10, 0x40].forEach((at, index) => {
      jump(file, at, returns[index] ?? 0n);
      const site = DATA + 0x800n + BigInt(index * 4);
      file.writeInt32LE(Number(TEXT + BigInt(at) - site), SITES_AT + index * 4);
    });
    writeEntry(file, 0, TEXT + 0x200n, DATA + 0x500n + 1n);
    writeEntry(file, 1, TEXT + 0x300n, DATA + 0x400n);
    writeEntry(file, 2, TEXT + 0x100n, DATA + 0x500n);
    [DATA, DATA + 48n].forEach((address, index) => {
      const at = 0x3900 + (index + 1) * 24;
      file.writeUInt32LE(index === 0 ? 1 : symbols.indexOf('__stop'), at);
      file.writeBigUInt64LE(address, at + 8);
    });
    const sections: [string, bigint, number, number][] = [
      ['', 0n, 0, 0],
      ['.text', TEXT, TEXT_AT, 0x1000],
      ['.data', DATA, DATA_AT, 0x800],
      ['.return_sites', DATA + 0x800n, SITES_AT, 8],
      ['.symtab', 0n, 0x3900, 72],
      ['.strtab', 0n, 0x3800, 0x100],
      ['.shstrtab', 0n, 0x3000, 0x100],
    ];
    sections.forEach(([name, address, offset, size], index) => {
      const at = 0x4000 + index * 64;
      file.writeUInt32LE(name === '' ? 0 : Math.max(strings.indexOf(name), 0), at);
      file.writeUInt32LE(1, at + 4);
      file.writeBigUInt64LE(address, at + 16);
      file.writeBigUInt64LE(BigInt(offset), at + 24);
      file.writeBigUInt64LE(BigInt(size), at + 32);
    });
    file.writeBigUInt64LE(0x4000n, 40);
    file.writeUInt16LE(sections.length, 60);
    file.writeUInt16LE(sections.length - 1, 62);
    return file;
  }

  it('writes plain returns over the jumps to the return thunk', () => {
    const settled = settleKernel(link());
    for (const at of [0x10, 0x40]) {
      expect(settled.subarray(TEXT_AT + at, TEXT_AT + at + 5).toString('hex')).toBe('c3cccccccc');
    }
  });

  it('sorts the static branches by key and address, wherever the entries move', () => {
    const settled = settleKernel(link());
    expect([0, 1, 2].map((index) => readEntry(settled, index))).toEqual([
      [TEXT + 0x300n, TEXT + 0x310n, DATA + 0x400n],
      [TEXT + 0x100n, TEXT + 0x110n, DATA + 0x500n],
      [TEXT + 0x200n, TEXT + 0x210n, DATA + 0x501n],
    ]);
  });

  it('leaves what it was given alone', () => {
    const file = link();
    const copy = Buffer.from(file);
    settleKernel(file);
    expect(file.equals(copy)).toBe(true);
  });

  it('refuses a site that is no jump to the thunk', () => {
    expect(() => settleKernel(link([THUNK, THUNK + 8n]))).toThrow('no jump to the return thunk');
  });
});
