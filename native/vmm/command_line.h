// The guest kernel's command line.
#ifndef CLEARVM_VMM_COMMAND_LINE_H_
#define CLEARVM_VMM_COMMAND_LINE_H_

#include <cstdint>
#include <string>

namespace clearvm::vmm {

// Where virtio-mmio device `index` is: its guest-physical address, and its interrupt line.
uint64_t DeviceAddress(size_t index);
uint32_t DeviceIrq(size_t index);

// Every argument that the kernel gets, `devices` virtio-mmio devices among them, then `extra`.
std::string KernelCommandLine(uint32_t cpus, size_t devices, bool debug, const std::string& extra);

}  // namespace clearvm::vmm

#endif  // CLEARVM_VMM_COMMAND_LINE_H_
