// One vCPU: its registers, and running it (Documentation/virt/kvm/api.rst, "vcpu ioctls").
#ifndef CLEARVM_KVM_VCPU_H_
#define CLEARVM_KVM_VCPU_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "native/base/fd.h"
#include "native/base/linux_kvm.h"
#include "native/base/result.h"
#include "native/kvm/cpuid.h"

namespace clearvm::kvm {

// The state in which a vCPU starts in 64-bit mode: paging on, interrupts off, flat segments.
struct LongModeEntry {
  uint64_t rip = 0;
  uint64_t rsp = 0;
  uint64_t rsi = 0;
  uint64_t cr3 = 0;
  uint64_t gdt_address = 0;
  uint16_t gdt_limit = 0;
  uint16_t code_selector = 0x10;  // a 64-bit ring-0 code segment of that GDT
  uint16_t data_selector = 0x18;  // a ring-0 data segment of it
};

// Belongs to the thread that runs it: everything but RequestExit is called by that thread, or
// before it starts. Getters and setters are one ioctl each; their errors are ERR_KVM_VCPU_STATE.
class Vcpu {
 public:
  enum class Event {
    kExit,         // the guest needs something: look at run()
    kInterrupted,  // a signal, or RequestExit; nothing to do for the guest
  };

  // Lets the guest run. An answer to the exit before (run().mmio.data, the bytes of run().io, ...)
  // must be in place. Errors: ERR_KVM_RUN.
  Result<Event> Run();
  // Makes the next, or with a signal to its thread the current, Run return kInterrupted, and all
  // later ones until ClearExitRequest. Async-signal-safe; any thread.
  void RequestExit();
  void ClearExitRequest();

  kvm_run& run() { return *reinterpret_cast<kvm_run*>(mapping_.data()); }
  const kvm_run& run() const { return *reinterpret_cast<const kvm_run*>(mapping_.data()); }
  // The bytes of a KVM_EXIT_IO: run().io.size * run().io.count of them, inside the shared mapping.
  // Empty when the kernel's offset would lie outside of it.
  std::span<uint8_t> io_data();

  // The VM's ring of collected writes (Vm::AddCoalescedMmio), shared by all its vCPUs; nullptr
  // where KVM has none. `page`: the value of KVM_CAP_COALESCED_MMIO.
  kvm_coalesced_mmio_ring* coalesced_ring(int page) {
    const size_t offset = static_cast<size_t>(page) * 4096;
    if (page <= 0 || offset + 4096 > mapping_.size()) return nullptr;
    return reinterpret_cast<kvm_coalesced_mmio_ring*>(mapping_.data() + offset);
  }

  // Puts the vCPU into 64-bit mode at `entry`; nothing of the reset state matters any more. Two
  // ioctls.
  Result<void> EnterLongMode(const LongModeEntry& entry);
  // Puts the vCPU into real mode at cs:ip = 0:`ip`, all segments 0.
  Result<void> EnterRealMode(uint16_t ip, uint16_t sp);

  Result<kvm_regs> GetRegs() const;
  Result<void> SetRegs(const kvm_regs& regs);
  Result<kvm_sregs> GetSregs() const;
  Result<void> SetSregs(const kvm_sregs& sregs);
  Result<kvm_fpu> GetFpu() const;
  Result<void> SetFpu(const kvm_fpu& fpu);
  Result<kvm_lapic_state> GetLapic() const;
  Result<void> SetLapic(const kvm_lapic_state& lapic);
  Result<kvm_mp_state> GetMpState() const;
  Result<void> SetMpState(const kvm_mp_state& state);
  Result<void> SetCpuid(const CpuidTable& table);
  // Reads the MSRs with these indices; fails unless all of them can be read.
  Result<std::vector<kvm_msr_entry>> GetMsrs(std::span<const uint32_t> indices) const;
  // Writes all of `msrs`; fails unless all of them can be written.
  Result<void> SetMsrs(std::span<const kvm_msr_entry> msrs);
  // The guest's TSC frequency in kHz; 0 where KVM does not know.
  uint32_t GetTscKhz() const;
  // Injects a non-maskable interrupt.
  Result<void> InjectNmi();

  uint32_t id() const { return id_; }
  int fd() const { return fd_.get(); }

 private:
  friend class Vm;
  Vcpu(uint32_t id, UniqueFd fd, UniqueMapping mapping)
      : id_(id), fd_(std::move(fd)), mapping_(std::move(mapping)) {}

  uint32_t id_;
  UniqueFd fd_;
  UniqueMapping mapping_;  // struct kvm_run and the pages behind it
};

}  // namespace clearvm::kvm

#endif  // CLEARVM_KVM_VCPU_H_
