// Guest memory: what the guest sees as RAM, mapped into this process.
#ifndef CLEARVM_KVM_MEMORY_H_
#define CLEARVM_KVM_MEMORY_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "native/base/fd.h"
#include "native/base/result.h"

namespace clearvm::kvm {

// Guest-physical addresses from here to 4 GiB are never RAM: virtio-mmio, IOAPIC and local APIC
// live there.
inline constexpr uint64_t kMmioHoleStart = 0xd000'0000;  // 3.25 GiB
inline constexpr uint64_t kMmioHoleEnd = 0x1'0000'0000;  // 4 GiB

// Behind the devices' registers, in one memory slot with them (a slot of its own costs each fork
// 0.4 million instructions): where the file server shows files (native/p9/window.h).
inline constexpr uint64_t kWindowStart = 0xd800'0000;
inline constexpr uint64_t kWindowSize = 0x2600'0000;  // 608 MiB

// How guest memory is backed on the host.
enum class Backing {
  kMemfd,      // a shared mapping of a memfd: it can be handed to others, and snapshotted
  kAnonymous,  // private anonymous memory
  kHugePages,  // as kMemfd, of the host's pool of 2 MiB pages: all set aside at once, none given
               // back
};

// One contiguous range of RAM.
struct MemoryRegion {
  uint64_t guest_address;  // guest-physical, bytes
  uint64_t size;           // bytes
  uint8_t* host_address;
  uint64_t file_offset;  // into the memfd
};

// A run of pages that a file holds.
struct MemoryExtent {
  uint64_t guest_address;  // guest-physical; these three are multiples of 4096 bytes
  uint64_t size;
  uint64_t file_offset;
};

// Owns the guest's RAM: one region below the hole, and one from 4 GiB where the size needs it. Each
// mapping has an inaccessible page before and behind it. Safe to use from any thread; the guest
// writes to it at any time, so whoever reads a value twice may see two values.
class GuestMemory {
 public:
  // `size`: bytes, a multiple of 4096, with kHugePages of 2 MiB, from 1 page to 1 TiB. Nothing is
  // populated. Errors: ERR_GUEST_MEMORY; ERR_HUGE_PAGES (the host's pool is too small).
  static Result<GuestMemory> Create(uint64_t size, Backing backing);

  // The same as private memory, which shows what `file` holds in `extents` (by address, not
  // overlapping; they are checked), and zeroes elsewhere. Writes stay in this process. `file` has
  // `file_size` bytes, and must not get shorter: that would be a SIGBUS. Errors: ERR_GUEST_MEMORY.
  static Result<GuestMemory> CreateFrom(uint64_t size, int file, uint64_t file_size,
                                        std::span<const MemoryExtent> extents);

  GuestMemory(GuestMemory&&) = default;
  GuestMemory& operator=(GuestMemory&&) = default;

  // The host's view of [address, address + length), or an ERR_GUEST_ADDRESS error unless all of it
  // lies in one region. Safe for any arguments, however hostile. length 0 is valid anywhere inside
  // RAM.
  Result<std::span<uint8_t>> Slice(uint64_t address, uint64_t length) const;
  // The same without the cost of an error message: nullptr where Slice fails.
  uint8_t* Translate(uint64_t address, uint64_t length) const;

  // Asks for huge pages, or for none, in the part of RAM that [address, address + length) covers.
  // Advice: it never fails.
  void AdviseHugePages(uint64_t address, uint64_t length, bool huge = true) const;

  // Gives the whole pages of [host, host + length), a part of one region, back to the host. What is
  // read there afterwards is zeroes, or what CreateFrom was given. Advice: it never fails, and does
  // nothing with kHugePages, where a page that was given back could be missing later.
  void Discard(uint8_t* host, uint64_t length) const;

  const std::vector<MemoryRegion>& regions() const { return regions_; }
  uint64_t size() const;
  // The memfd, or -1 with Backing::kAnonymous.
  int fd() const { return memfd_.get(); }

 private:
  GuestMemory() = default;
  // Still visible to core files and children: that costs system calls for each mapping.
  static Result<GuestMemory> CreateUnprotected(uint64_t size, Backing backing);

  UniqueFd memfd_;
  Backing backing_ = Backing::kAnonymous;
  std::vector<UniqueMapping> mappings_;  // guards included
  std::vector<MemoryRegion> regions_;
};

}  // namespace clearvm::kvm

#endif  // CLEARVM_KVM_MEMORY_H_
