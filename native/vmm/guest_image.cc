#include "native/vmm/guest_image.h"

#include <sys/random.h>

#include <array>

#include "native/vmm/command_line.h"

namespace clearvm::vmm {
namespace {

constexpr size_t kSeedSize = 32;  // bytes: what the kernel's generator takes in

}  // namespace

Result<GuestImage> LoadGuest(const MachineConfig& machine, const KernelConfig& kernel) {
  CLEARVM_ASSIGN(kvm::GuestMemory memory,
                 kvm::GuestMemory::Create(machine.memory, machine.backing));
  memory.AdviseHugePages(0, machine.memory + kvm::kMmioHoleEnd);
  std::array<uint8_t, kSeedSize> seed;
  if (::getrandom(seed.data(), seed.size(), 0) != static_cast<ssize_t>(seed.size())) {
    return SystemError("ERR_VMM", "getrandom", "cannot seed the guest's random numbers");
  }
  boot::BootOptions options;
  options.kernel_fd = kernel.kernel_fd;
  options.initrd_fd = kernel.initrd_fd;
  options.command_line =
      KernelCommandLine(machine.cpus, machine.devices, kernel.debug, kernel.extra);
  options.cpus = machine.cpus;
  options.irq_pins = DeviceIrq(machine.devices);
  options.seed = seed;
  CLEARVM_ASSIGN(const boot::BootEntry entry, boot::Load(memory, options));
  return GuestImage{std::move(memory), entry};
}

}  // namespace clearvm::vmm
