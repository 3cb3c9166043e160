#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>

#include "native/kvm/memory.h"

namespace clearvm::kvm {
namespace {

constexpr uint64_t kMiB = 1ull << 20;
constexpr uint64_t kGiB = 1ull << 30;

GuestMemory Make(uint64_t size, Backing backing = Backing::kMemfd) {
  Result<GuestMemory> memory = GuestMemory::Create(size, backing);
  EXPECT_TRUE(memory.ok()) << (memory.ok() ? "" : memory.error().message);
  return std::move(memory).value();
}

// Whether the kernel can read a byte there: asks without touching it.
bool Accessible(const uint8_t* address) {
  int fds[2];
  EXPECT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  const bool accessible = ::write(fds[1], address, 1) == 1;
  EXPECT_TRUE(accessible || errno == EFAULT);
  ::close(fds[0]);
  ::close(fds[1]);
  return accessible;
}

TEST(GuestMemory, RefusesBadSizes) {
  for (const uint64_t size : {uint64_t{0}, uint64_t{1}, uint64_t{4095}, 2 * kMiB + 1,
                              1024 * kGiB + 4096, UINT64_MAX, UINT64_MAX - 4095}) {
    Result<GuestMemory> memory = GuestMemory::Create(size, Backing::kMemfd);
    ASSERT_FALSE(memory.ok()) << size;
    EXPECT_EQ(memory.error().code, "ERR_GUEST_MEMORY");
  }
}

TEST(GuestMemory, IsOneRegionBelowTheHole) {
  const GuestMemory memory = Make(128 * kMiB);
  ASSERT_EQ(memory.regions().size(), 1u);
  EXPECT_EQ(memory.regions()[0].guest_address, 0u);
  EXPECT_EQ(memory.size(), 128 * kMiB);
  EXPECT_EQ(Make(kMmioHoleStart).regions().size(), 1u);
}

TEST(GuestMemory, GoesAroundTheHole) {
  const GuestMemory memory = Make(6 * kGiB);
  ASSERT_EQ(memory.regions().size(), 2u);
  EXPECT_EQ(memory.regions()[0].size, kMmioHoleStart);
  EXPECT_EQ(memory.regions()[1].guest_address, kMmioHoleEnd);
  EXPECT_EQ(memory.regions()[1].size, 6 * kGiB - kMmioHoleStart);
  EXPECT_EQ(memory.regions()[1].file_offset, kMmioHoleStart);
  EXPECT_EQ(memory.size(), 6 * kGiB);
  EXPECT_EQ(memory.Translate(kMmioHoleStart, 1), nullptr);
  EXPECT_EQ(memory.Translate(kMmioHoleEnd - 1, 1), nullptr);
  EXPECT_EQ(memory.Translate(kMmioHoleStart - 1, 2), nullptr);
  EXPECT_NE(memory.Translate(kMmioHoleStart - 1, 1), nullptr);
  EXPECT_NE(memory.Translate(kMmioHoleEnd, 1), nullptr);
}

TEST(GuestMemory, SharesHugePageOffsetsWithTheGuest) {
  const GuestMemory memory = Make(6 * kGiB);
  for (const MemoryRegion& region : memory.regions()) {
    EXPECT_EQ((reinterpret_cast<uint64_t>(region.host_address) ^ region.guest_address) % (2 * kMiB),
              0u);
  }
}

TEST(GuestMemory, TranslatesHostileRangesToNothing) {
  const GuestMemory memory = Make(2 * kMiB);
  const uint64_t end = 2 * kMiB;
  const struct {
    uint64_t address;
    uint64_t length;
  } bad[] = {{end, 0},
             {end, 1},
             {end - 1, 2},
             {0, end + 1},
             {1, end},
             {UINT64_MAX, 1},
             {UINT64_MAX, 0},
             {1, UINT64_MAX},
             {0, UINT64_MAX},
             {UINT64_MAX, UINT64_MAX},
             {end - 1, UINT64_MAX}};
  for (const auto& [address, length] : bad) {
    EXPECT_EQ(memory.Translate(address, length), nullptr) << address << " " << length;
    Result<std::span<uint8_t>> slice = memory.Slice(address, length);
    ASSERT_FALSE(slice.ok());
    EXPECT_EQ(slice.error().code, "ERR_GUEST_ADDRESS");
  }
  EXPECT_NE(memory.Translate(0, end), nullptr);
  EXPECT_NE(memory.Translate(end - 1, 1), nullptr);
  EXPECT_NE(memory.Translate(end - 1, 0), nullptr);
}

TEST(GuestMemory, StartsZeroAndHoldsWhatIsWritten) {
  for (const Backing backing : {Backing::kMemfd, Backing::kAnonymous}) {
    const GuestMemory memory = Make(2 * kMiB, backing);
    EXPECT_EQ(*memory.Translate(kMiB, 1), 0);
    std::memset(memory.Translate(kMiB, 4096), 0x5a, 4096);
    EXPECT_EQ(memory.Slice(kMiB + 4095, 1).value()[0], 0x5a);
    EXPECT_EQ(memory.fd() >= 0, backing == Backing::kMemfd);
  }
}

TEST(GuestMemory, HasInaccessiblePagesAround) {
  for (const Backing backing : {Backing::kMemfd, Backing::kAnonymous}) {
    const GuestMemory memory = Make(2 * kMiB, backing);
    const MemoryRegion& region = memory.regions()[0];
    EXPECT_TRUE(Accessible(region.host_address));
    EXPECT_TRUE(Accessible(region.host_address + region.size - 1));
    EXPECT_FALSE(Accessible(region.host_address - 1));
    EXPECT_FALSE(Accessible(region.host_address + region.size));
  }
}

TEST(GuestMemory, CannotBeShrunkBehindOurBack) {
  const GuestMemory memory = Make(2 * kMiB);
  EXPECT_EQ(::ftruncate(memory.fd(), 4096), -1);
  EXPECT_EQ(errno, EPERM);
}

TEST(GuestMemory, HugePagesAreWholeAndThere) {
  EXPECT_EQ(GuestMemory::Create(2 * kMiB + 4096, Backing::kHugePages).error().code,
            "ERR_GUEST_MEMORY");
  EXPECT_EQ(GuestMemory::Create(1ull << 40, Backing::kHugePages).error().code, "ERR_HUGE_PAGES");
}

TEST(GuestMemory, TakesAnyAdvice) {
  const GuestMemory memory = Make(4 * kMiB, Backing::kAnonymous);
  memory.AdviseHugePages(0, UINT64_MAX);
  memory.AdviseHugePages(UINT64_MAX, UINT64_MAX);
  memory.AdviseHugePages(2 * kMiB + 1, 5);
  EXPECT_EQ(*memory.Translate(2 * kMiB, 1), 0);
}

}  // namespace
}  // namespace clearvm::kvm
