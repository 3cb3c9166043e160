// Guest memory with a kernel in it: what a VM starts from.
#ifndef CLEARVM_VMM_GUEST_IMAGE_H_
#define CLEARVM_VMM_GUEST_IMAGE_H_

#include <cstdint>
#include <string>

#include "native/boot/boot.h"
#include "native/kvm/memory.h"

namespace clearvm::vmm {

struct MachineConfig {
  uint32_t cpus = 1;
  uint64_t memory = 0;  // bytes
  kvm::Backing backing = kvm::Backing::kMemfd;
  size_t devices = 0;        // virtio-mmio devices, exactly
  bool count_exits = false;  // ask KVM for its statistics when init starts
};

struct KernelConfig {
  int kernel_fd = -1;
  int initrd_fd = -1;  // -1: none
  bool debug = false;
  std::string extra;  // for the command line
};

struct GuestImage {
  kvm::GuestMemory memory;
  boot::BootEntry entry;
};

// Makes the memory and loads the kernel into it; needs no VM. Errors: boot::Load's,
// ERR_GUEST_MEMORY, ERR_VMM.
Result<GuestImage> LoadGuest(const MachineConfig& machine, const KernelConfig& kernel);

}  // namespace clearvm::vmm

#endif  // CLEARVM_VMM_GUEST_IMAGE_H_
