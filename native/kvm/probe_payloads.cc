#include "native/kvm/probe_payloads.h"

// Constants below: port 0xf4, results 0x600d and 0xbad, selectors 0x23 (user data) and 0x2b (user
// code), stack 0x30000.
static_assert(clearvm::kvm::kProbePort == 0xf4 && clearvm::kvm::kProbePassed == 0x600d &&
              clearvm::kvm::kProbeFailed == 0xbad && clearvm::kvm::kProbeUserData == 0x20 &&
              clearvm::kvm::kProbeUserCode == 0x28 && clearvm::kvm::kProbeUserStack == 0x30000);

// clang-format off
asm(R"(
    .pushsection .rodata.clearvm_probe, "a", @progbits
    .hidden clearvm_probe_begin, clearvm_probe_end
    .globl clearvm_probe_begin, clearvm_probe_end
clearvm_probe_begin:

    .macro CLEARVM_ENTRY name
    .hidden clearvm_probe_\name
    .globl clearvm_probe_\name
clearvm_probe_\name:
    .endm

    .macro CLEARVM_TO_RING3 target
    pushq $0x23
    pushq $0x30000
    pushq $2
    pushq $0x2b
    lea \target(%rip), %rax
    pushq %rax
    iretq
    .endm

CLEARVM_ENTRY loop
1:  dec %ecx
    jnz 1b
    jmp .Lpass

CLEARVM_ENTRY cmpxchg16b
    mov $1, %eax
    xor %edx, %edx
    mov %rax, (%rsi)
    mov %rdx, 8(%rsi)
    mov $3, %ebx
    mov $4, %ecx
    lock cmpxchg16b (%rsi)
    jne .Lfail
    cmpq $3, (%rsi)
    jne .Lfail
    cmpq $4, 8(%rsi)
    jne .Lfail
    jmp .Lpass

CLEARVM_ENTRY popcnt
    mov $0xf0f, %eax
    popcnt %rax, %rax
    cmp $8, %eax
    jne .Lfail
    jmp .Lpass

CLEARVM_ENTRY fwait
    fwait
    jmp .Lpass

CLEARVM_ENTRY stac_clac
    stac
    pushfq
    pop %rax
    clac
    pushfq
    pop %rbx
    test $0x40000, %eax
    jz .Lfail
    test $0x40000, %ebx
    jnz .Lfail
    jmp .Lpass

CLEARVM_ENTRY xsave
    mov $1, %eax
    xor %edx, %edx
    xsave (%rsi)
    xrstor (%rsi)
    cmpw $0x37f, (%rsi)
    jne .Lfail
    jmp .Lpass

CLEARVM_ENTRY int3
    xor %r15d, %r15d
    int3
    cmp $1, %r15d
    jne .Lfail
    jmp .Lpass

CLEARVM_ENTRY page_fault
    mov (%rdi), %eax
    jmp .Lfail

CLEARVM_ENTRY ring3_exception
    CLEARVM_TO_RING3 1f
1:  int3
2:  jmp 2b

CLEARVM_ENTRY ring3_syscall
    xor %r15d, %r15d
    CLEARVM_TO_RING3 1f
1:  syscall
    syscall
2:  jmp 2b

    /* From ring 0: count and return. From ring 3: the saved CS says so, and arriving here on ring 0's stack is the pass. */
CLEARVM_ENTRY breakpoint_gate
    testb $3, 8(%rsp)
    jnz 1f
    inc %r15d
    iretq
1:  mov %cs, %eax
    test $3, %al
    jnz .Lfail
    jmp .Lpass

CLEARVM_ENTRY page_fault_gate
    pop %rax
    mov %cr2, %rbx
    test %rax, %rax
    jnz .Lfail
    cmp %rdi, %rbx
    jne .Lfail
    jmp .Lpass

    /* Twice, with SYSRET between: the second arrival is the pass, if it is in ring 0. */
CLEARVM_ENTRY syscall_target
    inc %r15d
    cmp $2, %r15d
    je 1f
    sysretq
1:  mov %cs, %eax
    test $3, %al
    jnz .Lfail
    jmp .Lpass

.Lpass:
    mov $0x600d, %eax
    out %eax, $0xf4
    hlt
.Lfail:
    mov $0xbad, %eax
    out %eax, $0xf4
    hlt

clearvm_probe_end:
    .purgem CLEARVM_ENTRY
    .purgem CLEARVM_TO_RING3
    .popsection
)");
// clang-format on

#define CLEARVM_SYMBOL(name) \
  extern const uint8_t clearvm_probe_##name[] __attribute__((visibility("hidden")))
extern "C" {
CLEARVM_SYMBOL(begin);
CLEARVM_SYMBOL(end);
CLEARVM_SYMBOL(loop);
CLEARVM_SYMBOL(cmpxchg16b);
CLEARVM_SYMBOL(popcnt);
CLEARVM_SYMBOL(fwait);
CLEARVM_SYMBOL(stac_clac);
CLEARVM_SYMBOL(xsave);
CLEARVM_SYMBOL(int3);
CLEARVM_SYMBOL(page_fault);
CLEARVM_SYMBOL(ring3_exception);
CLEARVM_SYMBOL(ring3_syscall);
CLEARVM_SYMBOL(breakpoint_gate);
CLEARVM_SYMBOL(page_fault_gate);
CLEARVM_SYMBOL(syscall_target);
}
#undef CLEARVM_SYMBOL

namespace clearvm::kvm {
namespace {

uint64_t Offset(const uint8_t* symbol) {
  return reinterpret_cast<uintptr_t>(symbol) - reinterpret_cast<uintptr_t>(clearvm_probe_begin);
}

}  // namespace

std::span<const uint8_t> ProbeCode() { return {clearvm_probe_begin, Offset(clearvm_probe_end)}; }

ProbeEntries GetProbeEntries() {
  ProbeEntries entries;
  entries.loop = Offset(clearvm_probe_loop);
  entries.cmpxchg16b = Offset(clearvm_probe_cmpxchg16b);
  entries.popcnt = Offset(clearvm_probe_popcnt);
  entries.fwait = Offset(clearvm_probe_fwait);
  entries.stac_clac = Offset(clearvm_probe_stac_clac);
  entries.xsave = Offset(clearvm_probe_xsave);
  entries.int3 = Offset(clearvm_probe_int3);
  entries.page_fault = Offset(clearvm_probe_page_fault);
  entries.ring3_exception = Offset(clearvm_probe_ring3_exception);
  entries.ring3_syscall = Offset(clearvm_probe_ring3_syscall);
  entries.breakpoint_gate = Offset(clearvm_probe_breakpoint_gate);
  entries.page_fault_gate = Offset(clearvm_probe_page_fault_gate);
  entries.syscall_target = Offset(clearvm_probe_syscall_target);
  return entries;
}

}  // namespace clearvm::kvm
