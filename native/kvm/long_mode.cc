#include "native/kvm/long_mode.h"

#include <cstring>
#include <span>

namespace clearvm::kvm {
namespace {

// Page table entries, Intel SDM volume 3 section 4.5.
constexpr uint64_t kPresent = 1ull << 0;
constexpr uint64_t kWritable = 1ull << 1;
constexpr uint64_t kLargePage = 1ull << 7;
constexpr uint64_t kPageSize = 4096;
constexpr uint64_t kLargePageShift = 21;
constexpr uint64_t kEntries = 512;

constexpr uint64_t kPml4 = kPageTables;
constexpr uint64_t kPdpt = kPageTables + kPageSize;
constexpr uint64_t kDirectory = kPageTables + 2 * kPageSize;

// Flat, 4 GiB, present, ring 0, accessed (so that the processor need not write to them).
constexpr uint64_t kGdt[] = {
    0, 0,
    0x00af'9b00'0000'ffff,  // 64-bit code
    0x00cf'9300'0000'ffff,  // data
};

}  // namespace

Result<LongModeTables> WriteLongModeTables(const GuestMemory& memory) {
  CLEARVM_ASSIGN(std::span<uint8_t> target, memory.Slice(kGdtAddress, kLongModeEnd - kGdtAddress));
  auto put = [&](uint64_t address, uint64_t value) {
    std::memcpy(target.data() + (address - kGdtAddress), &value, sizeof(value));
  };
  for (size_t i = 0; i < std::size(kGdt); ++i) put(kGdtAddress + i * sizeof(kGdt[0]), kGdt[i]);
  put(kPml4, kPdpt | kPresent | kWritable);
  put(kPdpt, kDirectory | kPresent | kWritable);
  for (uint64_t i = 0; i < kEntries; ++i) {
    put(kDirectory + i * sizeof(uint64_t),
        i << kLargePageShift | kPresent | kWritable | kLargePage);
  }
  return LongModeTables{kPml4, kGdtAddress, sizeof(kGdt) - 1};
}

}  // namespace clearvm::kvm
