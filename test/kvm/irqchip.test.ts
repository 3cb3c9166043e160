import { describe, expect, it } from 'vitest';

import { loadAddon } from '../../src/vm/native.js';
import { assemble } from './assemble.js';

const addon = loadAddon();

/** Maps the interrupt controllers' registers, and makes `handler` the gate of vector 0x31. rdi: IOAPIC, rbx: local APIC. */
const PROLOGUE = `
    mov qword ptr [0x3018], 0x5003
    mov eax, 0xfec00083
    mov [0x5000 + 0x1f6 * 8], rax
    mov eax, 0xfee00083
    mov [0x5000 + 0x1f7 * 8], rax
    lea rax, handler[rip]
    mov [0x6310], ax
    mov word ptr [0x6312], 0x10
    mov word ptr [0x6314], 0x8e00
    shr rax, 16
    mov [0x6316], ax
    lidt idt[rip]
    mov edi, 0xfec00000
    mov ebx, 0xfee00000
    mov dword ptr [rbx + 0xf0], 0x1ff
`;
const EPILOGUE = `
handler:
    inc r15d
    mov dword ptr [rbx + 0xb0], 0
    iretq
idt:
    .word 0xfff
    .quad 0x6000
`;

const write = (index: number, value: number) => `
    mov dword ptr [rdi], ${index}
    mov dword ptr [rdi + 0x10], ${value}
`;
/** Asks the machine to raise line 5, waits until \`count\` interrupts have come, and says so through port 0x10. */
const raise = (count: number) => `
    mov al, 5
    out 0xf4, al
1:  cmp r15d, ${count}
    jne 1b
    mov al, ${count}
    out 0x10, al
`;

function run(body: string, maxExits: number) {
  return addon.runPayload({
    code: assemble(PROLOGUE + body + '\nself: jmp self\n' + EPILOGUE),
    mode: 'long',
    irqchip: 'split',
    irqFds: [5],
    maxExits,
    timeoutMs: 5000,
  });
}
const reports = (result: ReturnType<typeof run>) =>
  result.exits.flatMap((exit) =>
    exit.kind === 'port-out' && exit.port === 0x10 ? [exit.value] : [],
  );

describe('split irqchip', () => {
  it('has an IOAPIC in user space', () => {
    const result = run('mov dword ptr [rdi], 1\nmov eax, [rdi + 0x10]\nout 0x10, eax', 1);
    expect(reports(result)).toEqual([0x170011]);
  });

  it('delivers what comes in on an unmasked pin', () => {
    const result = run(write(0x1b, 0) + write(0x1a, 0x31) + 'sti' + raise(1) + raise(2), 4);
    expect(reports(result)).toEqual([1, 2]);
  });

  it('delivers a level-triggered pin again and again', () => {
    const result = run(write(0x1b, 0) + write(0x1a, 0x8031) + 'sti' + raise(1) + raise(2), 4);
    expect(reports(result)).toEqual([1, 2]);
  });

  it('delivers nothing from a masked pin', () => {
    const result = run(
      `${write(0x1b, 0)}${write(0x1a, 0x31)}sti${raise(1)}${write(0x1a, 0x10031)}
       mov al, 5
       out 0xf4, al
       out 0x10, al
       mov eax, r15d
       out 0x10, al`,
      5,
    );
    expect(reports(result)).toEqual([1, 5, 1]);
  });
});
