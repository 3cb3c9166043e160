// The uncompressed kernel: an x86-64 ELF executable (System V ABI, "Object Files"; elf(5)).
#ifndef CLEARVM_BOOT_ELF_H_
#define CLEARVM_BOOT_ELF_H_

#include <cstdint>
#include <vector>

#include "native/base/result.h"
#include "native/kvm/memory.h"

namespace clearvm::boot {

// Guest-physical range in which a kernel may lie: above the first MiB, where the boot structures
// are, and inside what the boot page tables map.
inline constexpr uint64_t kKernelMin = 1ull << 20;
inline constexpr uint64_t kKernelMax = 1ull << 30;

// One PT_LOAD. All of it has been checked: file range inside the file, guest range inside
// [kKernelMin, kKernelMax) and apart from all other segments, file_size <= memory_size.
struct ElfSegment {
  uint64_t file_offset;
  uint64_t file_size;
  uint64_t guest_address;  // guest-physical (p_paddr)
  uint64_t memory_size;
};

struct ElfImage {
  uint64_t entry;  // guest-physical, inside the file's part of an executable segment
  uint64_t start;  // guest-physical bounds of all segments
  uint64_t end;
  std::vector<ElfSegment> segments;  // by guest address
};

// Reads and checks the headers. Errors: ERR_KERNEL_IMAGE (the message says what is wrong),
// ERR_KERNEL_READ.
Result<ElfImage> ParseElf(int fd);

// Reads the segments straight into guest memory, which must be fresh: what a segment has beyond its
// part of the file is not cleared, for it is zero already. Errors: ERR_KERNEL_READ,
// ERR_GUEST_MEMORY_TOO_SMALL.
Result<void> LoadSegments(int fd, const ElfImage& image, const kvm::GuestMemory& memory);

}  // namespace clearvm::boot

#endif  // CLEARVM_BOOT_ELF_H_
