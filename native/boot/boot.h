// Puts a Linux kernel into guest memory so that a vCPU can enter it in 64-bit mode, with no
// firmware: Documentation/arch/x86/boot.rst, "64-bit Boot Protocol", and the Intel MultiProcessor
// Specification 1.4.
#ifndef CLEARVM_BOOT_BOOT_H_
#define CLEARVM_BOOT_BOOT_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "native/base/result.h"
#include "native/kvm/memory.h"

namespace clearvm::boot {

struct BootOptions {
  int kernel_fd = -1;             // an uncompressed ELF vmlinux, x86-64
  int initrd_fd = -1;             // -1: none
  std::string command_line;       // at most 2047 bytes
  uint32_t cpus = 1;              // 1 to 32
  uint32_t irq_pins = 24;         // of the IOAPIC, for the MP table
  std::span<const uint8_t> seed;  // for the kernel's RNG (setup_data SETUP_RNG_SEED); may be empty
};

struct BootEntry {
  uint64_t rip;          // the kernel's 64-bit entry point, guest-physical
  uint64_t rsi;          // boot_params
  uint64_t cr3;          // page tables that map the first GiB to itself
  uint64_t gdt_address;  // a GDT: null, unused, 64-bit code (0x10), data (0x18)
  uint16_t gdt_limit;
  uint64_t kernel_start;  // guest-physical range that the kernel image takes, .bss included
  uint64_t kernel_end;
};

// Loads everything. Errors: ERR_KERNEL_IMAGE (not an acceptable ELF file: the message says in
// what), ERR_KERNEL_READ, ERR_INITRD, ERR_COMMAND_LINE, ERR_BOOT_OPTIONS (numbers out of range),
// ERR_GUEST_MEMORY_TOO_SMALL (says how much is needed).
Result<BootEntry> Load(const kvm::GuestMemory& memory, const BootOptions& options);

}  // namespace clearvm::boot

#endif  // CLEARVM_BOOT_BOOT_H_
