#include <gtest/gtest.h>

#include <cstring>

#include "native/kvm/ioapic.h"

namespace clearvm::kvm {
namespace {

constexpr uint64_t kSelect = 0x00;
constexpr uint64_t kWindow = 0x10;
constexpr uint32_t kMasked = 1u << 16;
constexpr uint32_t kLevel = 1u << 15;

class IoapicTest : public testing::Test {
 protected:
  uint32_t Read(uint32_t index) {
    Write32(kSelect, index);
    return Read32(kWindow);
  }
  void Write(uint32_t index, uint32_t value) {
    Write32(kSelect, index);
    Write32(kWindow, value);
  }
  void SetEntry(uint32_t pin, uint32_t low, uint32_t high) {
    Write(0x11 + 2 * pin, high);
    Write(0x10 + 2 * pin, low);
  }
  uint32_t Read32(uint64_t offset) {
    uint8_t bytes[4];
    ioapic_.Read(offset, bytes);
    uint32_t value;
    std::memcpy(&value, bytes, sizeof(value));
    return value;
  }
  void Write32(uint64_t offset, uint32_t value) {
    uint8_t bytes[4];
    std::memcpy(bytes, &value, sizeof(value));
    EXPECT_TRUE(ioapic_.Write(offset, bytes).ok());
  }

  int updates_ = 0;
  bool fail_ = false;
  std::vector<MsiRoute> routes_;
  Ioapic ioapic_{24, [this](std::span<const MsiRoute> routes) -> Result<void> {
                   if (fail_) return Error{"ERR_KVM_IRQ", EINVAL, "ioctl", "refused"};
                   ++updates_;
                   routes_.assign(routes.begin(), routes.end());
                   return {};
                 }};
};

TEST_F(IoapicTest, SaysWhatItIs) {
  EXPECT_EQ(Read(0), static_cast<uint32_t>(kIoapicId) << 24);
  EXPECT_EQ(Read(1), 0x11u | 23u << 16);
  EXPECT_EQ(Read(2), static_cast<uint32_t>(kIoapicId) << 24);
  Write(0, 5u << 24);
  EXPECT_EQ(Read(0), 5u << 24);
  Write(1, 0);
  EXPECT_EQ(Read(1), 0x11u | 23u << 16);
}

TEST_F(IoapicTest, StartsMasked) {
  for (uint32_t pin = 0; pin < 24; ++pin) EXPECT_EQ(Read(0x10 + 2 * pin), kMasked);
  EXPECT_EQ(updates_, 0);
}

TEST_F(IoapicTest, RoutesAnUnmaskedPin) {
  SetEntry(5, 0x31, 2u << 24);
  ASSERT_EQ(routes_.size(), 1u);
  EXPECT_EQ(routes_[0], (MsiRoute{5, {0xfee0'2000, 0x31}}));
  EXPECT_EQ(updates_, 1);
  EXPECT_EQ(Read(0x1a), 0x31u);
  EXPECT_EQ(Read(0x1b), 2u << 24);
}

TEST_F(IoapicTest, TranslatesModesAndDestinations) {
  SetEntry(0, 0x41 | 1u << 8 | 1u << 11, 0xffu << 24);  // lowest priority, logical
  SetEntry(1, 0x42 | kLevel, 1u << 24);
  SetEntry(2, 0x00 | 4u << 8, 0);  // NMI
  ASSERT_EQ(routes_.size(), 3u);
  EXPECT_EQ(routes_[0], (MsiRoute{0, {0xfeef'f004, 0x141}}));
  EXPECT_EQ(routes_[1], (MsiRoute{1, {0xfee0'1000, 0x42 | 1u << 14 | 1u << 15}}));
  EXPECT_EQ(routes_[2], (MsiRoute{2, {0xfee0'0000, 0x400}}));
}

TEST_F(IoapicTest, DoesNotRouteWhatNoDeviceSends) {
  for (const uint32_t mode : {2u, 3u, 5u, 6u, 7u}) SetEntry(3, 0x50 | mode << 8, 0);
  EXPECT_EQ(updates_, 0);
}

TEST_F(IoapicTest, TellsKvmOnlyOfRealChanges) {
  for (uint32_t pin = 0; pin < 24; ++pin) SetEntry(pin, kMasked, 0);
  SetEntry(7, kMasked | 0x37, 1u << 24);
  EXPECT_EQ(updates_, 0);
  SetEntry(7, 0x37, 1u << 24);
  SetEntry(7, 0x37, 1u << 24);
  EXPECT_EQ(updates_, 1);
  SetEntry(8, kMasked | 0x38, 1u << 24);
  EXPECT_EQ(updates_, 1);
  Write(0x10 + 2 * 7, kMasked | 0x37);
  EXPECT_EQ(updates_, 2);
  EXPECT_TRUE(routes_.empty());
}

TEST_F(IoapicTest, MovesAnInterruptToAnotherCpu) {
  SetEntry(4, 0x34, 0);
  Write(0x11 + 2 * 4, 3u << 24);
  EXPECT_EQ(updates_, 2);
  EXPECT_EQ(routes_[0].msi.address, 0xfee0'3000u);
}

TEST_F(IoapicTest, KeepsReadOnlyBitsClear) {
  SetEntry(6, 0xffff'ffff, 0xffff'ffff);
  EXPECT_EQ(Read(0x1c), 0x0001'afffu);
  EXPECT_EQ(Read(0x1d), 0xff00'0000u);
}

TEST_F(IoapicTest, SurvivesNonsense) {
  EXPECT_EQ(Read(0x10 + 2 * 24), 0u);
  EXPECT_EQ(Read(0xff), 0u);
  Write(0x10 + 2 * 24, 0x31);
  Write(0xff, 0x31);
  Write(0x03, 0x31);
  Write32(kSelect, 0xffff'ff10);
  EXPECT_EQ(Read32(kSelect), 0x10u);
  for (const uint64_t offset :
       {uint64_t{4}, uint64_t{0x20}, uint64_t{0x40}, uint64_t{0xfff}, UINT64_MAX}) {
    Write32(offset, 0x31);
    EXPECT_EQ(Read32(offset), 0u);
  }
  for (size_t size = 0; size <= 8; ++size) {
    std::vector<uint8_t> bytes(size, 0xff);
    ioapic_.Read(kWindow, bytes);
    if (size != 4) {
      EXPECT_TRUE(ioapic_.Write(kWindow, bytes).ok());
    }
  }
  EXPECT_EQ(updates_, 0);
}

TEST_F(IoapicTest, HandsOnTheErrorAndTriesAgain) {
  fail_ = true;
  Write32(kSelect, 0x10);
  const uint8_t unmasked[4] = {0x31, 0, 0, 0};
  Result<void> result = ioapic_.Write(kWindow, unmasked);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, "ERR_KVM_IRQ");
  fail_ = false;
  EXPECT_TRUE(ioapic_.Write(kWindow, unmasked).ok());
  EXPECT_EQ(updates_, 1);
}

}  // namespace
}  // namespace clearvm::kvm
