// The tables by which a kernel without ACPI finds its processors and its IOAPIC: Intel
// MultiProcessor Specification 1.4.
#ifndef CLEARVM_BOOT_MPTABLE_H_
#define CLEARVM_BOOT_MPTABLE_H_

#include <cstdint>

#include "native/base/result.h"
#include "native/kvm/memory.h"

namespace clearvm::boot {

// The page that the tables lie in: the last of the 640 KiB of base memory, where section 4 has a
// kernel look for them. It must not be given to the kernel as RAM.
inline constexpr uint64_t kMpTablePage = 0x9f000;

// Writes the floating pointer and the configuration table: `cpus` (1 to 32) processors with the
// local APIC ids 0, 1, ..., an ISA bus, the IOAPIC (kvm/ioapic.h), and for each of its `irq_pins`
// (1 to 64) pins but 0 the interrupt of the same number, edge-triggered and active high. Errors:
// ERR_GUEST_ADDRESS.
Result<void> WriteMpTable(const kvm::GuestMemory& memory, uint32_t cpus, uint32_t irq_pins);

}  // namespace clearvm::boot

#endif  // CLEARVM_BOOT_MPTABLE_H_
