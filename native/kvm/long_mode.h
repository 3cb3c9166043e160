// What a vCPU needs in memory before it can be in 64-bit mode: page tables and a GDT.
#ifndef CLEARVM_KVM_LONG_MODE_H_
#define CLEARVM_KVM_LONG_MODE_H_

#include <cstdint>

#include "native/base/result.h"
#include "native/kvm/memory.h"

namespace clearvm::kvm {

// Guest-physical places, one page each from kPageTables on (3 of them).
inline constexpr uint64_t kGdtAddress = 0x1000;
inline constexpr uint64_t kPageTables = 0x2000;
inline constexpr uint64_t kLongModeEnd = 0x5000;

struct LongModeTables {
  uint64_t cr3;
  uint64_t gdt_address;
  uint16_t gdt_limit;
};

// Writes page tables that map the first GiB to itself in 2 MiB pages, and a GDT: null, unused,
// 64-bit code (0x10), data (0x18): __BOOT_CS and __BOOT_DS of the boot protocol. Errors:
// ERR_GUEST_ADDRESS.
Result<LongModeTables> WriteLongModeTables(const GuestMemory& memory);

}  // namespace clearvm::kvm

#endif  // CLEARVM_KVM_LONG_MODE_H_
