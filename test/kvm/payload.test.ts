import { describe, expect, it } from 'vitest';

import type { PayloadOptions, PayloadResult } from '../../src/vm/addon-types.js';
import { loadAddon } from '../../src/vm/native.js';
import { assemble } from './assemble.js';

const addon = loadAddon();

function run(
  mode: 'real' | 'long',
  source: string,
  options: Partial<PayloadOptions> = {},
): PayloadResult {
  const code = assemble(mode === 'real' ? `.code16\n${source}` : source, options.loadAddress);
  return addon.runPayload({ code, mode, ...options });
}

const register = (result: PayloadResult, name: string): bigint => {
  const value = result.registers[name];
  if (value === undefined) throw new Error(`no register ${name}`);
  return value;
};

describe('real mode', () => {
  it('exits for port writes and reads of each size, then halts', () => {
    const result = run(
      'real',
      `mov eax, 0x11223344
       out 0x10, al
       out 0x10, ax
       out 0x10, eax
       in al, 0x20
       in ax, 0x20
       in eax, 0x20
       mov dx, 0xfff0
       out dx, eax
       hlt`,
      { reads: [0x55, 0x6677, 0x8899aabb] },
    );
    expect(result.exits).toEqual([
      { kind: 'port-out', port: 0x10, size: 1, value: 0x44 },
      { kind: 'port-out', port: 0x10, size: 2, value: 0x3344 },
      { kind: 'port-out', port: 0x10, size: 4, value: 0x11223344 },
      { kind: 'port-in', port: 0x20, size: 1, value: 0x55 },
      { kind: 'port-in', port: 0x20, size: 2, value: 0x6677 },
      { kind: 'port-in', port: 0x20, size: 4, value: 0x8899aabb },
      { kind: 'port-out', port: 0xfff0, size: 4, value: 0x8899aabb },
      { kind: 'halt' },
    ]);
  });

  it('gives every register back', () => {
    const names = ['eax', 'ebx', 'ecx', 'edx', 'esi', 'edi', 'ebp'];
    const source = names.map((name, index) => `mov ${name}, ${0x01010101 * (index + 1)}`);
    const result = run('real', `${source.join('\n')}\nhlt`);
    names.forEach((name, index) => {
      expect(register(result, `r${name.slice(1)}`)).toBe(BigInt(0x01010101 * (index + 1)));
    });
    expect(register(result, 'rip')).toBe(0x8000n + BigInt(names.length * 6 + 1));
    expect(register(result, 'rsp')).toBe(0x8000n);
  });

  it('computes in guest memory', () => {
    const result = run(
      'real',
      `mov ax, 1
       mov bx, 0x600
       mov cx, 8
       next: mov [bx], ax
       add bx, 2
       add ax, ax
       loop next
       hlt`,
      { dump: { address: 0x600, length: 16 } },
    );
    expect(result.exits).toEqual([{ kind: 'halt' }]);
    expect(result.dump).toEqual(Buffer.from(Uint16Array.of(1, 2, 4, 8, 16, 32, 64, 128).buffer));
  });
});

describe('long mode', () => {
  it('exits for memory that is not there, with the data both ways', () => {
    const result = run(
      'long',
      `mov edi, 0x3f000000
       mov rax, 0x1122334455667788
       mov [rdi], al
       mov [rdi + 2], ax
       mov [rdi + 4], eax
       mov [rdi + 8], rax
       mov ebx, [rdi + 0x10]
       movzx ecx, byte ptr [rdi + 0x20]
       hlt`,
      { reads: [0xcafef00d, 0x1ff] },
    );
    expect(result.exits).toEqual([
      { kind: 'mmio-write', address: 0x3f000000, size: 1, value: 0x88 },
      { kind: 'mmio-write', address: 0x3f000002, size: 2, value: 0x7788 },
      { kind: 'mmio-write', address: 0x3f000004, size: 4, value: 0x55667788 },
      { kind: 'mmio-write', address: 0x3f000008, size: 8, value: Number(0x1122334455667788n) },
      { kind: 'mmio-read', address: 0x3f000010, size: 4, value: 0xcafef00d },
      { kind: 'mmio-read', address: 0x3f000020, size: 1, value: 0x1ff },
      { kind: 'halt' },
    ]);
    expect(register(result, 'rbx')).toBe(0xcafef00dn);
    expect(register(result, 'rcx')).toBe(0xffn);
  });

  it('has memory up to its size, and nothing behind it', () => {
    for (const memory of [0x200000, 0x801000]) {
      const result = run(
        'long',
        `mov edi, ${memory}
         mov byte ptr [rdi - 1], 0x5a
         mov byte ptr [rdi], 0x5b
         hlt`,
        { memory, dump: { address: memory - 1, length: 1 } },
      );
      expect(result.exits).toEqual([
        { kind: 'mmio-write', address: memory, size: 1, value: 0x5b },
        { kind: 'halt' },
      ]);
      expect(result.dump).toEqual(Buffer.of(0x5a));
    }
  });

  it('enters where it is told to', () => {
    const result = run('long', 'lea rax, [rip]\nhlt', { loadAddress: 0x10000 });
    expect(register(result, 'rax')).toBe(0x10007n);
  });

  it('shuts down on a fault that nobody handles', () => {
    expect(run('long', 'mov rax, [0x7fff0000]').exits).toEqual([{ kind: 'shutdown' }]);
  });

  it('signals an event instead of an exit', () => {
    const result = run(
      'long',
      `mov edi, 0x3f000050
       mov ecx, 5
       again: mov dword ptr [rdi], 1
       dec ecx
       jnz again
       hlt`,
      { ioEventFd: { address: 0x3f000050, length: 4 } },
    );
    expect(result.exits).toEqual([{ kind: 'halt' }]);
    expect(result.ioEventFdCount).toBe(5);
  });
});

describe('limits', () => {
  it('stops after so many exits', () => {
    const result = run('real', 'again: out 0x10, al\njmp again', { maxExits: 3 });
    expect(result.exits.map((exit) => exit.kind)).toEqual([
      'port-out',
      'port-out',
      'port-out',
      'exit-limit',
    ]);
  });

  it('stops after so much time', () => {
    const start = performance.now();
    expect(run('real', 'self: jmp self', { timeoutMs: 100 }).exits).toEqual([{ kind: 'timeout' }]);
    expect(performance.now() - start).toBeGreaterThanOrEqual(100);
  });
});

describe('CPUID', () => {
  const cpuid = (
    leaf: number,
    index = 0,
  ): { eax: number; ebx: number; ecx: number; edx: number } => {
    const result = run('long', `mov eax, ${leaf}\nmov ecx, ${index}\ncpuid\nhlt`);
    const low = (name: string) => Number(register(result, name) & 0xffffffffn);
    return { eax: low('rax'), ebx: low('rbx'), ecx: low('rcx'), edx: low('rdx') };
  };
  const bit = (value: number, n: number) => (value >>> n) & 1;

  it('tells of a hypervisor, and that it is KVM', () => {
    expect(bit(cpuid(1).ecx, 31)).toBe(1);
    const { ebx, ecx, edx } = cpuid(0x40000000);
    expect(Buffer.from(Uint32Array.of(ebx, ecx, edx).buffer).toString()).toBe('KVMKVMKVM\0\0\0');
  });

  it('offers the TSC deadline timer, and neither nesting nor monitor', () => {
    const { ecx } = cpuid(1);
    expect([bit(ecx, 24), bit(ecx, 5), bit(ecx, 3)]).toEqual([1, 0, 0]);
    expect(bit(cpuid(0x80000001).ecx, 2)).toBe(0);
  });

  it('describes one processor', () => {
    const { ebx } = cpuid(1);
    expect((ebx >>> 16) & 0xff).toBe(1);
    expect(ebx >>> 24).toBe(0);
    expect(cpuid(0xb, 1)).toMatchObject({ eax: 0, ebx: 1, ecx: 0x201, edx: 0 });
  });

  it('hides performance counters', () => {
    expect(cpuid(0xa)).toEqual({ eax: 0, ebx: 0, ecx: 0, edx: 0 });
  });
});

describe('errors', () => {
  const code = (error: unknown) => (error as { code?: string }).code;
  const failure = (options: Partial<PayloadOptions>): unknown => {
    try {
      addon.runPayload({ code: Buffer.of(0xf4), mode: 'real', ...options });
    } catch (error) {
      return error;
    }
    throw new Error('it did not fail');
  };

  it('carry a code', () => {
    expect(code(failure({ memory: 1000 }))).toBe('ERR_GUEST_MEMORY');
    expect(code(failure({ loadAddress: 0x200000 }))).toBe('ERR_GUEST_ADDRESS');
    expect(code(failure({ dump: { address: 0x1fffff, length: 2 } }))).toBe('ERR_GUEST_ADDRESS');
  });

  it('carry the system call that failed', () => {
    expect(failure({ ioEventFd: { address: 0x3f000000, length: 3 } })).toMatchObject({
      code: 'ERR_KVM_EVENTFD',
      errno: 22,
      syscall: 'ioctl(KVM_IOEVENTFD)',
    });
  });

  it('reject arguments of the wrong type', () => {
    expect(() => addon.runPayload({} as PayloadOptions)).toThrow(TypeError);
  });
});
