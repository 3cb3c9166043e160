#include "native/kvm/exit.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>

namespace clearvm::kvm {
namespace {

constexpr uint64_t kCr0Paging = 1ull << 31;
constexpr uint64_t kEferLongModeActive = 1ull << 10;
constexpr size_t kCodeBytes = 15;  // the longest instruction

struct Name {
  uint32_t reason;
  const char* name;
};

#define CLEARVM_EXIT_NAME(name) \
  Name { name, #name }
constexpr Name kNames[] = {
    CLEARVM_EXIT_NAME(KVM_EXIT_UNKNOWN),
    CLEARVM_EXIT_NAME(KVM_EXIT_EXCEPTION),
    CLEARVM_EXIT_NAME(KVM_EXIT_IO),
    CLEARVM_EXIT_NAME(KVM_EXIT_HYPERCALL),
    CLEARVM_EXIT_NAME(KVM_EXIT_DEBUG),
    CLEARVM_EXIT_NAME(KVM_EXIT_HLT),
    CLEARVM_EXIT_NAME(KVM_EXIT_MMIO),
    CLEARVM_EXIT_NAME(KVM_EXIT_IRQ_WINDOW_OPEN),
    CLEARVM_EXIT_NAME(KVM_EXIT_SHUTDOWN),
    CLEARVM_EXIT_NAME(KVM_EXIT_FAIL_ENTRY),
    CLEARVM_EXIT_NAME(KVM_EXIT_INTR),
    CLEARVM_EXIT_NAME(KVM_EXIT_SET_TPR),
    CLEARVM_EXIT_NAME(KVM_EXIT_TPR_ACCESS),
    CLEARVM_EXIT_NAME(KVM_EXIT_NMI),
    CLEARVM_EXIT_NAME(KVM_EXIT_INTERNAL_ERROR),
    CLEARVM_EXIT_NAME(KVM_EXIT_SYSTEM_EVENT),
    CLEARVM_EXIT_NAME(KVM_EXIT_IOAPIC_EOI),
    CLEARVM_EXIT_NAME(KVM_EXIT_HYPERV),
    CLEARVM_EXIT_NAME(KVM_EXIT_X86_RDMSR),
    CLEARVM_EXIT_NAME(KVM_EXIT_X86_WRMSR),
    CLEARVM_EXIT_NAME(KVM_EXIT_DIRTY_RING_FULL),
    CLEARVM_EXIT_NAME(KVM_EXIT_X86_BUS_LOCK),
};
#undef CLEARVM_EXIT_NAME

[[gnu::format(printf, 2, 3)]] void Append(std::string& text, const char* format, ...) {
  char buffer[256];
  va_list arguments;
  va_start(arguments, format);
  const int length = std::vsnprintf(buffer, sizeof(buffer), format, arguments);
  va_end(arguments);
  if (length > 0) text.append(buffer, std::min<size_t>(length, sizeof(buffer) - 1));
}

// Guest-virtual to guest-physical by the guest's own 4-level page tables; false where they do not
// lead anywhere. Read-only and bounded: the tables may be anything.
bool TranslateLinear(const GuestMemory& memory, const kvm_sregs& sregs, uint64_t linear,
                     uint64_t& physical) {
  constexpr uint64_t kPresent = 1;
  constexpr uint64_t kLarge = 1ull << 7;
  constexpr uint64_t kAddress = 0x000f'ffff'ffff'f000;
  if ((sregs.cr0 & kCr0Paging) == 0) {
    physical = linear;
    return true;
  }
  if ((sregs.efer & kEferLongModeActive) == 0) return false;
  uint64_t table = sregs.cr3 & kAddress;
  for (int shift = 39; shift >= 12; shift -= 9) {
    const uint64_t index = (linear >> shift) & 0x1ff;
    const uint8_t* host = memory.Translate(table + index * 8, 8);
    if (host == nullptr) return false;
    const uint64_t entry = *reinterpret_cast<const volatile uint64_t*>(host);
    if ((entry & kPresent) == 0) return false;
    const bool leaf = shift == 12 || (shift <= 30 && (entry & kLarge) != 0);
    const uint64_t offset_mask = (1ull << shift) - 1;
    if (leaf) {
      physical = (entry & kAddress & ~offset_mask) | (linear & offset_mask);
      return true;
    }
    table = entry & kAddress;
  }
  return false;
}

void AppendCode(std::string& text, const GuestMemory& memory, const kvm_sregs& sregs,
                uint64_t rip) {
  uint64_t physical = 0;
  const bool real_or_compatible = sregs.cs.l == 0;
  const uint64_t linear = real_or_compatible ? (sregs.cs.base + rip) & 0xffff'ffff : rip;
  if (!TranslateLinear(memory, sregs, linear, physical)) {
    text += " code=unmapped";
    return;
  }
  text += " code=";
  const size_t to_page_end = 4096 - (physical & 4095);
  for (size_t i = 0; i < std::min(kCodeBytes, to_page_end); ++i) {
    const uint8_t* byte = memory.Translate(physical + i, 1);
    if (byte == nullptr) {
      text += i == 0 ? "outside-memory" : "";
      return;
    }
    Append(text, "%02x", *byte);
  }
}

void AppendDetails(std::string& text, const kvm_run& run) {
  switch (run.exit_reason) {
    case KVM_EXIT_IO:
      Append(text, " %s port=0x%x size=%u count=%u",
             run.io.direction == KVM_EXIT_IO_OUT ? "out" : "in", run.io.port, run.io.size,
             run.io.count);
      break;
    case KVM_EXIT_MMIO:
      Append(text, " %s address=0x%llx size=%u", run.mmio.is_write ? "write" : "read",
             run.mmio.phys_addr, run.mmio.len);
      break;
    case KVM_EXIT_INTERNAL_ERROR:
      Append(text, " suberror=%u%s", run.internal.suberror,
             run.internal.suberror == KVM_INTERNAL_ERROR_EMULATION
                 ? " (KVM could not emulate the instruction at rip)"
                 : "");
      for (uint32_t i = 0; i < std::min(run.internal.ndata, 16u); ++i) {
        Append(text, " data[%u]=0x%llx", i, run.internal.data[i]);
      }
      break;
    case KVM_EXIT_FAIL_ENTRY:
      Append(text, " hardware_reason=0x%llx", run.fail_entry.hardware_entry_failure_reason);
      break;
    case KVM_EXIT_UNKNOWN:
      Append(text, " hardware_reason=0x%llx", run.hw.hardware_exit_reason);
      break;
    case KVM_EXIT_EXCEPTION:
      Append(text, " exception=%u error_code=0x%x", run.ex.exception, run.ex.error_code);
      break;
    case KVM_EXIT_SYSTEM_EVENT:
      Append(text, " type=%u", run.system_event.type);
      break;
    case KVM_EXIT_IOAPIC_EOI:
      Append(text, " vector=%u", run.eoi.vector);
      break;
    default:
      break;
  }
}

}  // namespace

const char* ExitName(uint32_t reason) {
  for (const Name& entry : kNames) {
    if (entry.reason == reason) return entry.name;
  }
  return "KVM_EXIT_?";
}

std::string DescribeExit(const Vcpu& vcpu, const GuestMemory& memory) {
  const kvm_run& run = vcpu.run();
  std::string text;
  Append(text, "vCPU %u: %s (%u)", vcpu.id(), ExitName(run.exit_reason), run.exit_reason);
  AppendDetails(text, run);
  const Result<kvm_regs> got_regs = vcpu.GetRegs();
  const Result<kvm_sregs> got_sregs = vcpu.GetSregs();
  if (!got_regs.ok() || !got_sregs.ok()) return text + " (registers unreadable)";
  const kvm_regs& r = got_regs.value();
  const kvm_sregs& s = got_sregs.value();
  Append(text, " at cs=0x%x rip=0x%llx", s.cs.selector, r.rip);
  AppendCode(text, memory, s, r.rip);
  Append(text,
         " rax=0x%llx rbx=0x%llx rcx=0x%llx rdx=0x%llx rsi=0x%llx rdi=0x%llx rbp=0x%llx rsp=0x%llx",
         r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp);
  Append(text, " rflags=0x%llx cr0=0x%llx cr2=0x%llx cr3=0x%llx cr4=0x%llx efer=0x%llx", r.rflags,
         s.cr0, s.cr2, s.cr3, s.cr4, s.efer);
  return text;
}

}  // namespace clearvm::kvm
