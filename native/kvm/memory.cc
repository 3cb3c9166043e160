#include "native/kvm/memory.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>

#include <algorithm>
#include <span>

namespace clearvm::kvm {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kHugePage = 2ull << 20;
constexpr uint64_t kMaxSize = 1ull << 40;

Result<UniqueFd> CreateMemfd(uint64_t size, Backing backing) {
  const unsigned huge = backing == Backing::kHugePages ? MFD_HUGETLB | MFD_HUGE_2MB : 0u;
  UniqueFd fd(::memfd_create("clearvm-guest-memory", MFD_CLOEXEC | MFD_ALLOW_SEALING | huge));
  if (!fd.valid()) {
    return SystemError("ERR_GUEST_MEMORY", "memfd_create", "cannot create guest memory");
  }
  if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) {
    return SystemError("ERR_GUEST_MEMORY", "ftruncate",
                       "cannot size guest memory to " + std::to_string(size) + " bytes");
  }
  // Whoever is handed this fd must not be able to take pages away under the mapping: that would be
  // a SIGBUS here.
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return SystemError("ERR_GUEST_MEMORY", "fcntl(F_ADD_SEALS)", "cannot seal guest memory");
  }
  return fd;
}

// A tenant's memory belongs neither into a core file of ours nor into a child process.
Result<void> Protect(std::span<const MemoryRegion> regions) {
  for (const MemoryRegion& region : regions) {
    if (::madvise(region.host_address, region.size, MADV_DONTDUMP) != 0 ||
        ::madvise(region.host_address, region.size, MADV_DONTFORK) != 0) {
      return SystemError("ERR_GUEST_MEMORY", "madvise", "cannot protect guest memory");
    }
  }
  return {};
}

// Reserves room for `region` and an inaccessible page on both sides of it, then maps it there.
Result<UniqueMapping> MapRegion(MemoryRegion& region, int memfd, Backing backing) {
  const uint64_t reserved = region.size + 2 * kPage + kHugePage;
  void* reservation =
      ::mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reservation == MAP_FAILED) {
    return SystemError("ERR_GUEST_MEMORY", "mmap",
                       "cannot reserve " + std::to_string(reserved) + " bytes of address space");
  }
  UniqueMapping mapping(reservation, reserved);
  // Congruent with the guest address modulo 2 MiB, or no huge page could back both. Region
  // addresses are multiples of it.
  const uint64_t first_usable = reinterpret_cast<uint64_t>(reservation) + kPage;
  const uint64_t padding = -first_usable & (kHugePage - 1);
  uint8_t* address = mapping.data() + kPage + padding;
  const bool huge = backing == Backing::kHugePages;
  // Without a reservation, a pool that has run out would be a SIGBUS.
  const int kind =
      (memfd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS) | (huge ? 0 : MAP_NORESERVE);
  void* mapped = ::mmap(address, region.size, PROT_READ | PROT_WRITE, kind | MAP_FIXED, memfd,
                        memfd >= 0 ? static_cast<off_t>(region.file_offset) : 0);
  if (mapped == MAP_FAILED && huge && errno == ENOMEM) {
    return Error{"ERR_HUGE_PAGES", ENOMEM, "mmap",
                 "the host has fewer than " + std::to_string(region.size / kHugePage) +
                     " free huge pages of 2 MiB: set vm.nr_hugepages higher, or go without "
                     "--hugepages"};
  }
  if (mapped == MAP_FAILED) {
    return SystemError("ERR_GUEST_MEMORY", "mmap",
                       "cannot map " + std::to_string(region.size) + " bytes of guest memory");
  }
  region.host_address = static_cast<uint8_t*>(mapped);
  return mapping;
}

}  // namespace

Result<GuestMemory> GuestMemory::Create(uint64_t size, Backing backing) {
  CLEARVM_ASSIGN(GuestMemory memory, CreateUnprotected(size, backing));
  CLEARVM_RETURN_IF_ERROR(Protect(memory.regions_));
  return memory;
}

Result<GuestMemory> GuestMemory::CreateUnprotected(uint64_t size, Backing backing) {
  if (size < kPage || size > kMaxSize || size % kPage != 0) {
    return Error{"ERR_GUEST_MEMORY", 0, "",
                 "guest memory of " + std::to_string(size) +
                     " bytes: give a multiple of 4096, from 4096 to 1 TiB"};
  }
  if (backing == Backing::kHugePages && size % kHugePage != 0) {
    return Error{"ERR_GUEST_MEMORY", 0, "",
                 "guest memory of " + std::to_string(size) +
                     " bytes in huge pages: give a multiple of 2 MiB"};
  }
  GuestMemory memory;
  memory.backing_ = backing;
  if (backing != Backing::kAnonymous) {
    CLEARVM_ASSIGN(memory.memfd_, CreateMemfd(size, backing));
  }
  const uint64_t low = std::min(size, kMmioHoleStart);
  memory.regions_.push_back({0, low, nullptr, 0});
  if (size > low) memory.regions_.push_back({kMmioHoleEnd, size - low, nullptr, low});
  for (MemoryRegion& region : memory.regions_) {
    CLEARVM_ASSIGN(UniqueMapping mapping, MapRegion(region, memory.memfd_.get(), backing));
    memory.mappings_.push_back(std::move(mapping));
  }
  return memory;
}

Result<GuestMemory> GuestMemory::CreateFrom(uint64_t size, int file, uint64_t file_size,
                                            std::span<const MemoryExtent> extents) {
  CLEARVM_ASSIGN(GuestMemory memory, CreateUnprotected(size, Backing::kAnonymous));
  uint64_t next = 0;
  for (const MemoryExtent& extent : extents) {
    uint8_t* address = memory.Translate(extent.guest_address, extent.size);
    const bool aligned =
        (extent.guest_address | extent.size | extent.file_offset) % kPage == 0 && extent.size != 0;
    if (address == nullptr || !aligned || extent.guest_address < next ||
        extent.file_offset > file_size || extent.size > file_size - extent.file_offset) {
      return Error{"ERR_GUEST_MEMORY", 0, "",
                   "saved memory at guest address " + std::to_string(extent.guest_address) +
                       " lies outside of the guest's memory or of the file, or over other memory"};
    }
    next = extent.guest_address + extent.size;
    if (::mmap(address, extent.size, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, file,
               static_cast<off_t>(extent.file_offset)) == MAP_FAILED) {
      return SystemError("ERR_GUEST_MEMORY", "mmap", "cannot map saved guest memory");
    }
  }
  CLEARVM_RETURN_IF_ERROR(Protect(memory.regions_));
  return memory;
}

uint8_t* GuestMemory::Translate(uint64_t address, uint64_t length) const {
  for (const MemoryRegion& region : regions_) {
    // Wraps to a huge offset for an address below the region, which the comparison then refuses.
    const uint64_t offset = address - region.guest_address;
    if (offset < region.size && length <= region.size - offset) return region.host_address + offset;
  }
  return nullptr;
}

Result<std::span<uint8_t>> GuestMemory::Slice(uint64_t address, uint64_t length) const {
  uint8_t* host = Translate(address, length);
  if (host == nullptr) {
    return Error{"ERR_GUEST_ADDRESS", 0, "",
                 "guest address " + std::to_string(address) + ", length " + std::to_string(length) +
                     ", is not inside guest memory"};
  }
  return std::span<uint8_t>(host, length);
}

void GuestMemory::AdviseHugePages(uint64_t address, uint64_t length, bool huge) const {
  for (const MemoryRegion& region : regions_) {
    const uint64_t region_end = region.guest_address + region.size;
    const uint64_t end = length > UINT64_MAX - address ? UINT64_MAX : address + length;
    const uint64_t from = std::max(address, region.guest_address) & ~(kPage - 1);
    const uint64_t to = std::min(end, region_end);
    if (from >= to) continue;
    ::madvise(region.host_address + (from - region.guest_address), to - from,
              huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  }
}

void GuestMemory::Discard(uint8_t* host, uint64_t length) const {
  const auto address = reinterpret_cast<uint64_t>(host);
  const uint64_t skipped = -address & (kPage - 1);
  if (length < skipped + kPage || backing_ == Backing::kHugePages) return;
  ::madvise(host + skipped, (length - skipped) & ~(kPage - 1),
            memfd_.valid() ? MADV_REMOVE : MADV_DONTNEED);
}

uint64_t GuestMemory::size() const {
  uint64_t total = 0;
  for (const MemoryRegion& region : regions_) total += region.size;
  return total;
}

}  // namespace clearvm::kvm
