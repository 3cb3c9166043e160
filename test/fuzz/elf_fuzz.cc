// The ELF loader, and all that follows from an accepted file: no input may touch anything but guest
// memory.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

#include "native/base/fd.h"
#include "native/boot/boot.h"
#include "native/boot/elf.h"

using clearvm::Result;
using clearvm::UniqueFd;
using clearvm::boot::BootEntry;
using clearvm::boot::BootOptions;
using clearvm::boot::kKernelMin;
using clearvm::kvm::Backing;
using clearvm::kvm::GuestMemory;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr uint64_t kMemory = 4 << 20;
  static const GuestMemory memory =
      std::move(GuestMemory::Create(kMemory, Backing::kMemfd)).value();
  const UniqueFd file(::memfd_create("fuzz", MFD_CLOEXEC));
  if (::write(file.get(), data, size) != static_cast<ssize_t>(size)) return 0;
  BootOptions options;
  options.kernel_fd = file.get();
  Result<BootEntry> entry = clearvm::boot::Load(memory, options);
  if (!entry.ok()) {
    if (entry.error().message.empty()) std::abort();
    return 0;
  }
  const BootEntry& loaded = entry.value();
  if (loaded.kernel_start < kKernelMin || loaded.kernel_end > kMemory ||
      loaded.rip < loaded.kernel_start || loaded.rip >= loaded.kernel_end) {
    std::abort();
  }
  return 0;
}
