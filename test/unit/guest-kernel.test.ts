import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import {
  findDuplicates,
  findLost,
  loadFragments,
  parseFragment,
  renderConfig,
  symbolsFor,
  VERSIONS,
} from '../../guest-kernel/fragments.mjs';
import { hashInputs, listPatches, requirePackages } from '../../guest-kernel/inputs.mjs';
import { packKernel } from '../../guest-kernel/pack.mjs';

const GUEST_KERNEL = fileURLToPath(new URL('../../guest-kernel', import.meta.url));
const temporary: string[] = [];

afterEach(() => {
  for (const directory of temporary.splice(0)) rmSync(directory, { recursive: true });
});

describe('the fragments', () => {
  const { symbols, problems } = loadFragments(join(GUEST_KERNEL, 'fragments'));

  it('give every symbol a reason, and set none twice', () => {
    expect(problems).toEqual([]);
    expect(symbols.length).toBeGreaterThan(150);
  });

  it('are the five concerns', () => {
    expect(readdirSync(join(GUEST_KERNEL, 'fragments')).sort()).toEqual([
      'base.config',
      'container.config',
      'fs.config',
      'net.config',
      'virtio.config',
    ]);
  });

  it.each(VERSIONS)('ask Linux %s for what init and the VMM rely on', (version) => {
    const config = renderConfig(symbolsFor(symbols, version));
    for (const line of [
      'CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES=y',
      'CONFIG_VIRTIO_VSOCKETS=y',
      'CONFIG_NET_9P_VIRTIO=y',
      'CONFIG_X86_IOPL_IOPERM=y',
      'CONFIG_CLEARVM_PANIC=y',
      'CONFIG_NR_CPUS=32',
      '# CONFIG_MODULES is not set',
    ]) {
      expect(config.split('\n')).toContain(line);
    }
  });
});

describe('parseFragment', () => {
  it('reads value, version and reason', () => {
    const { symbols, problems } = parseFragment(
      '# text\n\nCONFIG_A=y # why\nCONFIG_B="x # y"  @6.12 # because\n',
      'f.config',
    );
    expect(problems).toEqual([]);
    expect(symbols).toEqual([
      { name: 'CONFIG_A', value: 'y', version: undefined, reason: 'why', where: 'f.config:3' },
      {
        name: 'CONFIG_B',
        value: '"x # y"',
        version: '6.12',
        reason: 'because',
        where: 'f.config:4',
      },
    ]);
  });

  it.each([
    ['CONFIG_A=y', 'f.config:1: CONFIG_A has no reason'],
    ['CONFIG_A=y #  ', 'f.config:1: CONFIG_A has no reason'],
    ['CONFIG_A=y @5.10 # why', 'f.config:1: CONFIG_A is for version 5.10'],
    ['CONFIG_A # why', 'f.config:1: not of the form'],
    ['A=y # why', 'f.config:1: not of the form'],
  ])('objects to %j', (line, problem) => {
    expect(parseFragment(line, 'f.config').problems).toEqual([expect.stringContaining(problem)]);
  });
});

describe('findDuplicates', () => {
  it('names both places', () => {
    const { symbols } = parseFragment('CONFIG_A=y # one\nCONFIG_A=n # two\n', 'f.config');
    expect(findDuplicates(symbols)).toEqual(['f.config:2: CONFIG_A is already set at f.config:1']);
  });

  it('lets each version have its own value', () => {
    const { symbols } = parseFragment(
      'CONFIG_A=y @6.1 # one\nCONFIG_A=n @6.12 # two\n',
      'f.config',
    );
    expect(findDuplicates(symbols)).toEqual([]);
  });
});

describe('findLost', () => {
  const wanted = [
    { name: 'CONFIG_KEPT', value: 'y' },
    { name: 'CONFIG_DROPPED', value: 'y' },
    { name: 'CONFIG_OFF', value: 'n' },
    { name: 'CONFIG_SELECTED', value: 'n' },
    { name: 'CONFIG_NUMBER', value: '32' },
    { name: 'CONFIG_STRING', value: '"-clearvm"' },
  ];
  const kept =
    'CONFIG_KEPT=y\nCONFIG_NUMBER=32\nCONFIG_STRING="-clearvm"\n# CONFIG_OFF is not set\n';

  it('is content with a .config that grants everything', () => {
    expect(findLost(wanted, `${kept}CONFIG_DROPPED=y\n`)).toEqual([]);
  });

  it('names what was dropped, selected and changed', () => {
    const doctored = `${kept.replace('=32', '=64')}# CONFIG_DROPPED is not set\nCONFIG_SELECTED=y\n`;
    expect(findLost(wanted, doctored)).toEqual([
      'CONFIG_DROPPED=y was asked for, but olddefconfig made it n',
      'CONFIG_SELECTED=n was asked for, but olddefconfig made it y',
      'CONFIG_NUMBER=32 was asked for, but olddefconfig made it 64',
    ]);
  });

  it('is not misled by a name that is the beginning of another', () => {
    expect(findLost([{ name: 'CONFIG_NET', value: 'y' }], 'CONFIG_NET_9P=y\n')).toHaveLength(1);
  });
});

describe('the patches', () => {
  it.each(VERSIONS)('for Linux %s are in order, licensed, and say why', (version) => {
    const patches = listPatches(join(GUEST_KERNEL, 'patches'), version);
    const names = patches.map((path: string) => basename(path));
    expect(names).toEqual([...names].sort());
    expect(names[0]).toMatch(/^0001-/);
    for (const path of patches) {
      const text = readFileSync(path, 'utf8');
      expect(text).toMatch(/^SPDX-License-Identifier: GPL-2\.0\n/);
      expect(text).toMatch(/^Why: /m);
    }
  });

  it('write to the ports that the VMM listens on', () => {
    const header = readFileSync(join(GUEST_KERNEL, '../native/protocol/agent.h'), 'utf8');
    const [panic] = listPatches(join(GUEST_KERNEL, 'patches'), '6.1');
    const patch = readFileSync(panic as string, 'utf8');
    for (const port of ['CLEARVM_PORT_IO_PANIC_LOG', 'CLEARVM_PORT_IO_PANIC']) {
      const value = new RegExp(`^#define ${port}\\s+(0x[0-9a-f]+)`, 'm').exec(header)?.[1];
      expect(value).toBeDefined();
      expect(patch).toMatch(new RegExp(`^\\+#define ${port}\\s+${value}$`, 'm'));
    }
  });
});

describe('hashInputs', () => {
  const inputs = {
    archiveHash: 'a',
    compiler: 'gcc',
    symbols: parseFragment('CONFIG_A=y # why\nCONFIG_B=y # why\n', 'f').symbols,
    patches: ['p', 'q'],
    recipe: 'r',
  };

  it('changes with each input', () => {
    const hashes = [
      inputs,
      { ...inputs, archiveHash: 'b' },
      { ...inputs, compiler: 'clang' },
      { ...inputs, symbols: inputs.symbols.slice(1) },
      { ...inputs, patches: ['pq'] },
      { ...inputs, recipe: 's' },
    ].map(hashInputs);
    expect(new Set(hashes).size).toBe(hashes.length);
  });

  it('does not change with a reason or the order of lines', () => {
    const { symbols } = parseFragment('CONFIG_B=y # another\nCONFIG_A=y # reason\n', 'g');
    expect(hashInputs({ ...inputs, symbols })).toBe(hashInputs(inputs));
  });
});

describe('requirePackages', () => {
  it('names the package of a missing source archive, and the way to it', () => {
    expect(() => requirePackages('/nonexistent/linux.tar.xz', '6.12')).toThrow(
      expect.objectContaining({
        code: 'ERR_KERNEL_SOURCE',
        message: expect.stringMatching(/linux-source-6\.12.*npm run setup/s),
      }),
    );
  });

  it('names the packages of missing tools', () => {
    const directory = mkdtempSync(join(tmpdir(), 'clearvm-test-'));
    temporary.push(directory);
    const archive = join(directory, 'linux.tar.xz');
    writeFileSync(archive, '');
    const path = process.env['PATH'];
    process.env['PATH'] = directory;
    try {
      expect(() => requirePackages(archive, '6.1')).toThrow(
        expect.objectContaining({
          code: 'ERR_KERNEL_TOOLS',
          message: expect.stringContaining('flex'),
        }),
      );
    } finally {
      process.env['PATH'] = path;
    }
  });
});

describe('packKernel', () => {
  const PAGE = 4096;

  interface Part {
    address: number;
    bytes: Buffer;
    memorySize: number;
  }

  /** An ELF file as the kernel's linker writes it: segments 2 MiB apart in the file, and sections after them. */
  function link(parts: Part[]): Buffer {
    const file = Buffer.alloc((parts.length + 1) * 0x200000 + 100);
    file.writeUInt32BE(0x7f454c46, 0);
    file.set([2, 1, 1], 4);
    file.writeBigUInt64LE(0x1000000n, 24); // e_entry
    file.writeBigUInt64LE(64n, 32); // e_phoff
    file.writeBigUInt64LE(BigInt(file.length - 100), 40); // e_shoff
    file.writeUInt16LE(56, 54);
    file.writeUInt16LE(parts.length + 1, 56);
    file.set([64, 0, 1, 0, 0, 0], 58);
    parts.forEach(({ address, bytes, memorySize }, index) => {
      const header = file.subarray(64 + index * 56);
      const offset = (index + 1) * 0x200000;
      header.writeUInt32LE(1, 0);
      header.writeUInt32LE(5, 4);
      header.writeBigUInt64LE(BigInt(offset), 8);
      header.writeBigUInt64LE(0xffffffff80000000n + BigInt(address), 16);
      header.writeBigUInt64LE(BigInt(address), 24);
      header.writeBigUInt64LE(BigInt(bytes.length), 32);
      header.writeBigUInt64LE(BigInt(memorySize), 40);
      bytes.copy(file, offset);
    });
    // The notes: the second page of the first part.
    const note = file.subarray(64 + parts.length * 56);
    note.writeUInt32LE(4, 0); // PT_NOTE
    note.writeBigUInt64LE(BigInt(0x200000 + PAGE), 8);
    note.writeBigUInt64LE(0xffffffff80000000n + BigInt((parts[0]?.address ?? 0) + PAGE), 16);
    note.writeBigUInt64LE(BigInt((parts[0]?.address ?? 0) + PAGE), 24);
    note.writeBigUInt64LE(100n, 32);
    note.writeBigUInt64LE(100n, 40);
    note.writeBigUInt64LE(4n, 48);
    return file;
  }

  /** What a loader makes of an ELF file: memory from `start`, and how far its segments reach. */
  function load(file: Buffer, start: number, size: number) {
    const memory = Buffer.alloc(size);
    const segments: { from: number; to: number; loaded: number; virtual: bigint }[] = [];
    const notes: Buffer[] = [];
    for (let i = 0; i < file.readUInt16LE(56); i += 1) {
      const header = file.subarray(64 + i * 56);
      const [offset, , address, fileSize, memorySize] = [8, 16, 24, 32, 40].map((at) =>
        Number(header.readBigUInt64LE(at)),
      ) as [number, number, number, number, number];
      if (header.readUInt32LE(0) === 4) {
        notes.push(file.subarray(offset, offset + fileSize));
        continue;
      }
      expect(header.readUInt32LE(0)).toBe(1);
      expect(offset % PAGE).toBe(address % PAGE);
      expect(offset + fileSize).toBeLessThanOrEqual(file.length);
      file.copy(memory, address - start, offset, offset + fileSize);
      const virtual = header.readBigUInt64LE(16);
      segments.push({ from: address, to: address + memorySize, loaded: fileSize, virtual });
    }
    return { memory, segments, notes };
  }

  const text = Buffer.concat([
    Buffer.alloc(3 * PAGE, 0x90),
    Buffer.alloc(10 * PAGE, 0xcc), // padding, long enough to leave the file
    Buffer.alloc(PAGE + 10, 0x91),
    Buffer.alloc(2 * PAGE, 0xcc), // too short
    Buffer.alloc(PAGE, 0x92),
  ]);
  const data = Buffer.concat([
    Buffer.alloc(8 * PAGE),
    Buffer.alloc(100, 7),
    Buffer.alloc(9 * PAGE),
  ]);
  const parts = [
    { address: 0x1000000, bytes: text, memorySize: text.length },
    { address: 0x1200000, bytes: data, memorySize: data.length + 5 * PAGE },
  ];

  it('puts the same bytes at the same addresses, padding aside', () => {
    const { memory } = load(packKernel(link(parts)), 0x1000000, 0x300000);
    const expected = Buffer.alloc(0x300000);
    text.copy(expected);
    expected.fill(0, 3 * PAGE, 13 * PAGE);
    data.copy(expected, 0x200000);
    expect(memory.equals(expected)).toBe(true);
  });

  it('says where the notes are, without which QEMU does not find the PVH entry point', () => {
    text.write('PVH', PAGE);
    const { notes } = load(packKernel(link(parts)), 0x1000000, 0x300000);
    expect(notes.map((note) => note.toString('latin1', 0, 3))).toEqual(['PVH']);
    expect(notes[0]).toHaveLength(100);
    text.fill(0x90, PAGE, PAGE + 3);
  });

  it('covers the same memory, without overlap', () => {
    const { segments } = load(packKernel(link(parts)), 0x1000000, 0x300000);
    for (const { address, memorySize } of parts) {
      const own = segments.filter(({ from }) => from >= address && from < address + memorySize);
      expect(own[0]?.from).toBe(address);
      own.forEach(({ to, virtual, from }, index) => {
        expect(to).toBe(own[index + 1]?.from ?? address + memorySize);
        expect(virtual).toBe(0xffffffff80000000n + BigInt(from));
      });
    }
  });

  it('leaves the padding out of the file', () => {
    const packed = packKernel(link(parts));
    const { segments } = load(packed, 0x1000000, 0x300000);
    const loaded = segments.reduce((sum, segment) => sum + segment.loaded, 0);
    expect(loaded).toBeLessThan(text.length + data.length - 24 * PAGE);
    expect(packed.length).toBeLessThan(loaded + 8 * PAGE);
    expect(packed.readBigUInt64LE(24)).toBe(0x1000000n);
    expect(packed.readBigUInt64LE(40)).toBe(0n);
  });

  it('rejects what is not an ELF file, or has too many parts', () => {
    expect(() => packKernel(Buffer.from('#!/bin/sh\n'))).toThrow('not a 64-bit');
    const striped = Buffer.alloc(65 * 8 * PAGE);
    for (let at = 0; at < striped.length; at += 8 * PAGE) striped[at] = 1;
    const part = { address: 0x1000000, bytes: striped.subarray(0, 0x200000), memorySize: 0x200000 };
    const parts66 = [part, { ...part, address: 0x1400000, bytes: striped.subarray(0, 8 * PAGE) }];
    expect(() => packKernel(link(parts66))).toThrow('66 parts');
  });
});
