#include <gtest/gtest.h>
#include <poll.h>

#include <array>
#include <atomic>

#include "native/virtio/console.h"
#include "native/virtio/mmio.h"
#include "native/virtio/vsock.h"
#include "test/native/virtio_driver.h"

namespace clearvm::virtio::testing {
namespace {

constexpr uint64_t kAll = kFeatureVersion1 | kFeatureRingEventIdx | kFeatureRingIndirectDesc;
constexpr uint64_t kData = 0x80'0000;

class VirtioMmio : public ::testing::Test, public DeviceFixture {
 protected:
  // The console: its sink tells what the device has taken, and can be made to block.
  void SetUp() override {
    Attach(CreateConsole([this](std::span<const uint8_t> bytes) {
      entered_ = true;
      while (hold_.load()) std::this_thread::yield();
      taken_ += bytes.size();
    }));
    StartLoop();
  }
  void TearDown() override { hold_ = false; }
  void Print(uint32_t length) {
    const uint16_t before = queue(1).next_avail();
    queue(1).Add({{kData, length, false}});
    KickIfNeeded(1, before);
  }

  std::atomic<bool> hold_{false};
  std::atomic<bool> entered_{false};
  std::atomic<size_t> taken_{0};
};

TEST_F(VirtioMmio, SaysWhatItIs) {
  EXPECT_EQ(Read(0x00), 0x74726976u);
  EXPECT_EQ(Read(0x04), 2u);
  EXPECT_EQ(Read(0x08), kDeviceIdConsole);
  EXPECT_NE(Read(0x0c), 0u);
  EXPECT_EQ(Read(0xfc), 0u);          // ConfigGeneration
  EXPECT_EQ(Read(0xb0), UINT32_MAX);  // no shared memory
  EXPECT_EQ(Read(0xb4), UINT32_MAX);
}

TEST_F(VirtioMmio, OffersItsFeaturesInTwoWords) {
  Write(0x14, 0);
  EXPECT_EQ(Read(0x10), static_cast<uint32_t>(kAll));
  Write(0x14, 1);
  EXPECT_EQ(Read(0x10), static_cast<uint32_t>(kAll >> 32));
  Write(0x14, 2);
  EXPECT_EQ(Read(0x10), 0u);
  Write(0x14, UINT32_MAX);
  EXPECT_EQ(Read(0x10), 0u);
}

TEST_F(VirtioMmio, TakesFeaturesThatItOffersWithVersion1) {
  EXPECT_TRUE(Negotiate(kAll));
  EXPECT_TRUE(Negotiate(kFeatureVersion1));
  EXPECT_FALSE(Negotiate(kFeatureRingEventIdx)) << "legacy drivers are refused";
  EXPECT_FALSE(Negotiate(kAll | 1)) << "not offered";
  EXPECT_FALSE(Negotiate(kAll | 1ull << 40));
}

TEST_F(VirtioMmio, RefusesAFeatureBeyondBit63) {
  Write(0x70, 0);
  Write(0x24, 1);
  Write(0x20, static_cast<uint32_t>(kFeatureVersion1 >> 32));
  Write(0x24, 2);
  Write(0x20, 1);
  Write(0x70, 1 | 2 | 8);
  EXPECT_EQ(Read(0x70), 3u);
}

TEST_F(VirtioMmio, FeaturesAreSettledByFeaturesOk) {
  ASSERT_TRUE(Negotiate(kFeatureVersion1));
  Write(0x24, 0);
  Write(0x20, static_cast<uint32_t>(kFeatureRingEventIdx));
  ASSERT_TRUE(SetUpQueue(0));
  ASSERT_TRUE(SetUpQueue(1));
  Write(0x70, 15);
  // Without event indices the device uses the flag.
  queue(1).SetAvailFlags(1);
  queue(1).Add({{kData, 5, false}});
  Kick(1);
  ASSERT_TRUE(Eventually([this] { return taken_ == 5; }));
  ASSERT_TRUE(Eventually([this] { return queue(1).UsedIndex() == 1; }));
  EXPECT_EQ(TakeInterrupts(), 0u);
}

TEST_F(VirtioMmio, StatusBitsAreOnlyAdded) {
  Write(0x70, 1);
  EXPECT_EQ(Read(0x70), 1u);
  Write(0x70, 2);
  EXPECT_EQ(Read(0x70), 3u);
  Write(0x70, 0xffffff70);  // bits that are not the driver's to set
  EXPECT_EQ(Read(0x70), 3u);
  Write(0x70, 128);
  EXPECT_EQ(Read(0x70), 131u);
  Write(0x70, 0);
  EXPECT_EQ(Read(0x70), 0u);
}

TEST_F(VirtioMmio, DriverOkNeedsFeaturesOk) {
  Write(0x70, 1 | 2 | 4);
  EXPECT_EQ(Read(0x70), 3u);
}

TEST_F(VirtioMmio, QueuesBeyondTheLastAreNotThere) {
  ASSERT_TRUE(Negotiate(kAll));
  for (const uint32_t index : {2u, 3u, 65536u, UINT32_MAX}) {
    Write(0x30, index);
    EXPECT_EQ(Read(0x34), 0u);
    Write(0x38, 1);
    Write(0x44, 1);
    EXPECT_EQ(Read(0x44), 0u);
  }
  Kick(2);
  Kick(UINT32_MAX);
  EXPECT_EQ(Read(0x70), 11u);
}

TEST_F(VirtioMmio, RefusesQueuesThatCannotBe) {
  const auto refused = [this](uint32_t offset, uint32_t value) {
    EXPECT_TRUE(Negotiate(kAll));
    Write(0x30, 1);
    Write(0x38, 8);
    Write(0x80, 0x10000);
    Write(0x90, 0x11000);
    Write(0xa0, 0x12000);
    Write(offset, value);
    Write(0x44, 1);
    return Read(0x44) == 0 && (Read(0x70) & 64) != 0;
  };
  EXPECT_TRUE(refused(0x38, 0));
  EXPECT_TRUE(refused(0x38, 3));
  EXPECT_TRUE(refused(0x38, 128)) << "more than QueueNumMax";
  EXPECT_TRUE(refused(0x38, 65536 + 8)) << "must not be cut to 16 bits";
  EXPECT_TRUE(refused(0x80, 0x10008));
  EXPECT_TRUE(refused(0x84, 1));
  EXPECT_TRUE(refused(0x90, 0xfffffffe));
  EXPECT_TRUE(refused(0xa4, UINT32_MAX));
  EXPECT_FALSE(refused(0x38, 8));
}

TEST_F(VirtioMmio, AReadyQueueDoesNotChange) {
  ASSERT_TRUE(Negotiate(kAll));
  ASSERT_TRUE(SetUpQueue(0));
  ASSERT_TRUE(SetUpQueue(1));
  Write(0x80, 0xdead0000);
  Write(0x38, 1);
  Write(0x70, 15);
  Print(7);
  EXPECT_TRUE(Eventually([this] { return taken_ == 7; }));
}

TEST_F(VirtioMmio, ServesABufferAndInterrupts) {
  ASSERT_TRUE(Start());
  EXPECT_EQ(Read(0x60), 0u);
  Print(100);
  ASSERT_TRUE(Eventually([this] { return TakeInterrupts() == 1; }));
  EXPECT_EQ(taken_, 100u);
  EXPECT_EQ(Read(0x60), 1u);
  Write(0x64, 1);
  EXPECT_EQ(Read(0x60), 0u);
  EXPECT_TRUE(queue(1).Take().has_value());
}

TEST_F(VirtioMmio, ServesWhatWasKickedBeforeTheDeviceWasActivated) {
  ASSERT_TRUE(Negotiate(kAll));
  ASSERT_TRUE(SetUpQueue(0));
  ASSERT_TRUE(SetUpQueue(1));
  queue(1).Add({{kData, 9, false}});
  Kick(1);
  ASSERT_TRUE(Eventually([this] {  // the loop has eaten the kick
    pollfd poll{transport()->kick_fd(1), POLLIN, 0};
    return ::poll(&poll, 1, 0) == 0;
  }));
  EXPECT_EQ(taken_, 0u) << "nothing may be consumed before DRIVER_OK";
  Write(0x70, 15);
  EXPECT_TRUE(Eventually([this] { return taken_ == 9; }));
}

TEST_F(VirtioMmio, AccessesOfOtherWidthsReadZeroAndWriteNothing) {
  for (const size_t width : {1u, 2u, 3u, 8u, 16u}) {
    std::array<uint8_t, 16> bytes;
    bytes.fill(0xaa);
    transport()->Read(0, {bytes.data(), width});
    for (size_t i = 0; i < width; i++) EXPECT_EQ(bytes[i], 0) << width;
    if (width < 16) {
      EXPECT_EQ(bytes[width], 0xaa);
    }
    bytes.fill(1);
    transport()->Write(0x70, {bytes.data(), width});
    EXPECT_EQ(Read(0x70), 0u);
  }
  for (const uint64_t offset : {1u, 2u, 3u, 0x71u}) EXPECT_EQ(Read(offset), 0u);
  Write(0x71, 1);
  EXPECT_EQ(Read(0x70), 0u);
}

TEST_F(VirtioMmio, NoOffsetIsToo) {
  for (uint64_t offset = 0; offset < 0x1100; offset += 4) {
    if (offset == 0x50) continue;
    Write(offset, 0x41414141);
    (void)Read(offset);
  }
  Write(UINT64_MAX - 3, 1);
  EXPECT_EQ(Read(UINT64_MAX - 3), 0u);
  Write(0x70, 0);
  EXPECT_TRUE(Start()) << "a reset undoes all of it";
}

TEST_F(VirtioMmio, ABrokenQueueNeedsAResetAndASecondLifeWorks) {
  ASSERT_TRUE(Start());
  queue(1).Publish(60000);
  Kick(1);
  ASSERT_TRUE(Eventually([this] { return (Read(0x70) & 64) != 0; }));
  ASSERT_TRUE(Eventually([this] { return (Read(0x60) & 2) != 0; }));
  EXPECT_GE(TakeInterrupts(), 1u);
  // It does nothing any more ...
  queue(1).Add({{kData, 3, false}});
  Kick(1);
  // ... until it is reset.
  Write(0x70, 0);
  EXPECT_EQ(Read(0x70), 0u);
  EXPECT_EQ(Read(0x60), 0u);
  EXPECT_EQ(taken_, 0u);
  ASSERT_TRUE(Start());
  Print(4);
  EXPECT_TRUE(Eventually([this] { return taken_ == 4; }));
}

TEST_F(VirtioMmio, AResetIsCompleteWhenItsWriteReturns) {
  for (int i = 0; i < 200; i++) {
    ASSERT_TRUE(Start());
    const size_t before = taken_;
    Print(4);
    if (i % 2 == 0) {
      ASSERT_TRUE(Eventually([&] { return taken_ == before + 4; }));
    }
    Write(0x70, 0);
    ASSERT_EQ(Read(0x70), 0u);
    // The device is out of the rings: what happens to them now is nobody's business.
    const uint16_t used = queue(1).UsedIndex();
    queue(1).Add({{kData, 1000, false}});
    Kick(1);
    ASSERT_EQ(queue(1).UsedIndex(), used);
    TakeInterrupts();
  }
}

TEST_F(VirtioMmio, AResetDoesNotWaitForEverForABusyLoop) {
  ASSERT_TRUE(Start());
  hold_ = true;
  Print(4);
  ASSERT_TRUE(Eventually([this] { return entered_.load(); }));
  Write(0x70, 0);  // comes back, although the loop is stuck
  EXPECT_NE(Read(0x70), 0u) << "not complete";
  hold_ = false;
  EXPECT_TRUE(Eventually([this] { return Read(0x70) == 0; }));
  ASSERT_TRUE(Start());
}

TEST_F(VirtioMmio, StoppingALiveQueueStopsTheDevice) {
  ASSERT_TRUE(Start());
  Write(0x30, 1);
  Write(0x44, 0);
  EXPECT_EQ(Read(0x44), 0u);
  EXPECT_NE(Read(0x70) & 64, 0u);
  queue(1).Add({{kData, 3, false}});
  Kick(1);
  Write(0x70, 0);
  EXPECT_EQ(Read(0x70), 0u);
  EXPECT_EQ(taken_, 0u);
}

TEST_F(VirtioMmio, ATransportMayGoWhileTasksAreDue) {
  StopLoop();
  ASSERT_TRUE(Start());
  Write(0x70, 0);
}

TEST(VirtioMmioConfig, ReadsConfigurationInAllWidths) {
  DeviceFixture fixture;
  VsockOptions options;
  options.guest_cid = 0x01020304;
  fixture.Attach(std::move(CreateVsock(std::move(options), fixture.loop())).value());
  uint64_t cid = 0;
  fixture.transport()->Read(0x100, {reinterpret_cast<uint8_t*>(&cid), 8});
  EXPECT_EQ(cid, 0x01020304u);
  EXPECT_EQ(fixture.Read(0x100), 0x01020304u);
  EXPECT_EQ(fixture.Read(0x104), 0u);
  uint16_t half = 0;
  fixture.transport()->Read(0x102, {reinterpret_cast<uint8_t*>(&half), 2});
  EXPECT_EQ(half, 0x0102u);
  uint8_t byte = 0;
  fixture.transport()->Read(0x101, {&byte, 1});
  EXPECT_EQ(byte, 3u);
  // Across the end and beyond it.
  cid = UINT64_MAX;
  fixture.transport()->Read(0x107, {reinterpret_cast<uint8_t*>(&cid), 8});
  EXPECT_EQ(cid, 0u);
  EXPECT_EQ(fixture.Read(0x108), 0u);
  EXPECT_EQ(fixture.Read(0xffc), 0u);
}

}  // namespace
}  // namespace clearvm::virtio::testing
