// One VM: its memory slots, interrupt controller, eventfds and vCPUs
// (Documentation/virt/kvm/api.rst, "VM ioctls").
#ifndef CLEARVM_KVM_VM_H_
#define CLEARVM_KVM_VM_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>

#include "native/base/fd.h"
#include "native/base/linux_kvm.h"
#include "native/base/result.h"
#include "native/kvm/memory.h"
#include "native/kvm/vcpu.h"

namespace clearvm::kvm {

// A message-signalled interrupt: what a write of `data` to `address` means to the local APICs
// (Intel SDM volume 3, "Message Signalled Interrupts").
struct Msi {
  uint64_t address = 0;
  uint32_t data = 0;
  bool operator==(const Msi&) const = default;
};

// Which message interrupt line `gsi` of the VM sends.
struct MsiRoute {
  uint32_t gsi = 0;
  Msi msi;
  bool operator==(const MsiRoute&) const = default;
};

// Every function here is one ioctl. All but SignalMsi and SetMsiRoutes belong to the set-up of a
// VM; those two may be called by any thread at any time.
class Vm {
 public:
  // Where VT-x hosts without unrestricted guest mode keep three pages for real-mode emulation:
  // inside the MMIO hole, behind KVM's default identity map (0xfffbc000), where no device of ours
  // lives.
  static constexpr uint64_t kTssAddress = 0xfffb'd000;

  // Wanted by VT-x (KVM_SET_TSS_ADDR), nothing on AMD-V. Errors: ERR_KVM_SETUP.
  Result<void> SetTssAddress(uint64_t address = kTssAddress);
  // Local APICs in the kernel, the IOAPIC in user space (kvm/ioapic.h) with `pins` pins; before the
  // first vCPU. Errors: ERR_KVM_SETUP.
  Result<void> CreateSplitIrqchip(uint32_t pins);
  // Local APICs, IOAPIC (24 pins, at 0xfec00000) and PICs, all in the kernel; before the first
  // vCPU. Errors: ERR_KVM_SETUP.
  Result<void> CreateFullIrqchip();
  // Takes the performance counters from the VM, whose CPUID hides them; before the first vCPU.
  // Hosts older than Linux 5.18 cannot: there nothing happens. Errors: none.
  void DisablePmu();

  // Makes `region` guest RAM as memory slot `slot`. Its mapping must outlive the VM. Errors:
  // ERR_KVM_MEMORY.
  Result<void> SetMemorySlot(uint32_t slot, const MemoryRegion& region, bool read_only = false);
  // All of `memory`, in slots from 0. Errors: ERR_KVM_MEMORY.
  Result<void> AddMemory(const GuestMemory& memory);

  // A write of `length` (1, 2, 4 or 8) bytes to `address`, of the value `match` if there is one,
  // signals `eventfd` instead of an exit. Errors: ERR_KVM_EVENTFD.
  Result<void> AddIoEventFd(int eventfd, uint64_t address, uint32_t length,
                            std::optional<uint64_t> match);
  // The same for a port of the I/O space. Errors: ERR_KVM_EVENTFD.
  Result<void> AddPortEventFd(int eventfd, uint16_t port, uint32_t length,
                              std::optional<uint64_t> match);
  // Writes into [address, address + size) no longer exit: they are collected in the ring that
  // Vcpu::coalesced_ring shows, until some other exit brings the caller there
  // (KVM_REGISTER_COALESCED_MMIO). Errors: ERR_KVM_SETUP.
  Result<void> AddCoalescedMmio(uint64_t address, uint32_t size);
  // A write to `eventfd` raises interrupt line `gsi`: with a split irqchip it sends the message of
  // its route. Errors: ERR_KVM_EVENTFD.
  Result<void> AddIrqFd(int eventfd, uint32_t gsi);

  // Replaces all routes; a line without one is dead. Errors: ERR_KVM_IRQ.
  Result<void> SetMsiRoutes(std::span<const MsiRoute> routes);
  // Delivers one message now. Errors: ERR_KVM_IRQ.
  Result<void> SignalMsi(const Msi& msi);
  // Ends a vCPU's HLT, or the next one if it is not halted, with its interrupts on or off: what
  // KVM_HC_KICK_CPU (the kernel's Documentation/virt/kvm/x86/hypercalls.rst) does for other vCPUs.
  // `apic_id`: 0 to 254, of a vCPU whose state has been loaded, or which has run: one that KVM does
  // not find yet misses it, and nobody is told. Errors: ERR_KVM_IRQ.
  Result<void> Unhalt(uint32_t apic_id);
  // Sets the level of line `gsi` of a full irqchip. Errors: ERR_KVM_IRQ.
  Result<void> SetIrqLine(uint32_t gsi, bool high);

  // The guest's kvm-clock, nanoseconds. Errors: ERR_KVM_CLOCK.
  Result<kvm_clock_data> GetClock() const;
  Result<void> SetClock(const kvm_clock_data& clock);

  // vCPU `id` (its local APIC id; from 0; 0 is the boot processor, all others wait for its INIT and
  // SIPI). Errors: ERR_KVM_CREATE_VCPU.
  Result<Vcpu> CreateVcpu(uint32_t id);

  int fd() const { return fd_.get(); }

 private:
  friend class System;
  Vm(UniqueFd fd, size_t vcpu_mapping_size)
      : fd_(std::move(fd)), vcpu_mapping_size_(vcpu_mapping_size) {}

  UniqueFd fd_;
  size_t vcpu_mapping_size_;
};

}  // namespace clearvm::kvm

#endif  // CLEARVM_KVM_VM_H_
