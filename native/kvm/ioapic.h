// The I/O APIC in user space, for KVM's split irqchip (Intel 82093AA data sheet; xAPIC extensions
// of the ICH9).
#ifndef CLEARVM_KVM_IOAPIC_H_
#define CLEARVM_KVM_IOAPIC_H_

#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <vector>

#include "native/base/bytes.h"
#include "native/base/result.h"
#include "native/kvm/vm.h"

namespace clearvm::kvm {

inline constexpr uint64_t kIoapicAddress = 0xfec0'0000;  // guest-physical
inline constexpr uint64_t kIoapicSize = 0x1000;          // bytes of address space
inline constexpr uint32_t kIoapicMaxPins = 64;
inline constexpr uint8_t kIoapicId =
    32;  // above the local APIC id of every possible vCPU (0 to 31)

// Pin n is KVM's interrupt line (gsi) n: an irqfd on it sends the message that the guest has
// written into redirection entry n. Interrupts never pass through this object; it only turns
// register writes into routes. Thread-safe.
class Ioapic {
 public:
  // Replaces the VM's message routes: Vm::SetMsiRoutes. One system call, so it is called only when
  // an entry that is not masked appears, changes or goes.
  using SetRoutes = std::function<Result<void>(std::span<const MsiRoute>)>;

  // `pins`: 1 to kIoapicMaxPins, as in Vm::CreateSplitIrqchip.
  Ioapic(uint32_t pins, SetRoutes set_routes);

  // A guest's access at `offset` from kIoapicAddress, from any vCPU thread. Accesses that the data
  // sheet does not define read as 0 and write nothing. Errors: SetRoutes'.
  void Read(uint64_t offset, std::span<uint8_t> out);
  Result<void> Write(uint64_t offset, std::span<const uint8_t> data);

  // The registers, as bytes. Restore takes those of an IOAPIC with as many pins, and sets the
  // routes once. Errors: ERR_KVM_IOAPIC_STATE, SetRoutes'.
  void Save(ByteWriter& out);
  Result<void> Restore(ByteReader& in);

 private:
  uint32_t ReadRegister() const;
  bool WriteRegister(uint32_t value);
  Result<void> UpdateRoutes();

  std::mutex mutex_;
  SetRoutes set_routes_;
  uint32_t select_ = 0;  // IOREGSEL
  uint8_t id_ = kIoapicId;
  std::vector<uint64_t> redirection_;  // one entry a pin
  std::vector<MsiRoute> routes_;       // as KVM has them
};

}  // namespace clearvm::kvm

#endif  // CLEARVM_KVM_IOAPIC_H_
