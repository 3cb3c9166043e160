#include <gtest/gtest.h>

#include "native/virtio/queue.h"
#include "test/native/virtio_driver.h"

namespace clearvm::virtio::testing {
namespace {

constexpr uint64_t kRam = 4 << 20;
constexpr uint64_t kRings = 0x1000;
constexpr uint64_t kData = 0x10'0000;
constexpr uint64_t kTable = 0x8'0000;

class VirtioQueue : public ::testing::Test {
 protected:
  VirtioQueue()
      : memory_(std::move(kvm::GuestMemory::Create(kRam, kvm::Backing::kAnonymous)).value()) {}

  void SetUp() override { Build(8, true, true); }
  void Build(uint16_t size, bool indirect, bool event_index) {
    driver_ = std::make_unique<DriverQueue>(&memory_, kRings, size);
    device_ = std::move(Queue::Create(&memory_, driver_->Layout(indirect, event_index))).value();
  }
  // One raw descriptor, as head of a chain.
  void PublishRaw(uint64_t address, uint32_t length, uint16_t flags, uint16_t next = 0) {
    driver_->SetDescriptor(driver_->descriptors(), 0, address, length, flags, next);
    driver_->Publish(0);
  }
  void ExpectFault(QueueFault fault) {
    EXPECT_FALSE(device_.Pop(&chain_));
    EXPECT_EQ(device_.fault(), fault) << QueueFaultText(device_.fault());
    // It stays broken, whatever comes.
    driver_->SetDescriptor(driver_->descriptors(), 1, kData, 16, 0, 0);
    driver_->Publish(1);
    EXPECT_FALSE(device_.Pop(&chain_));
    EXPECT_FALSE(device_.HasAvailable());
    EXPECT_FALSE(device_.EnableNotification());
    EXPECT_EQ(device_.fault(), fault);
  }

  kvm::GuestMemory memory_;
  std::unique_ptr<DriverQueue> driver_;
  Queue device_;
  Chain chain_;
};

TEST_F(VirtioQueue, AQueueThatIsNotSetUpIsEmpty) {
  Queue queue;
  EXPECT_FALSE(queue.ready());
  EXPECT_FALSE(queue.Pop(&chain_));
  EXPECT_FALSE(queue.HasAvailable());
  EXPECT_FALSE(queue.EnableNotification());
  EXPECT_FALSE(queue.NeedsInterrupt());
  queue.DisableNotification();
}

TEST_F(VirtioQueue, PopsReadableAndWritableBuffersInOrder) {
  driver_->Add({{kData, 10, false}, {kData + 100, 20, false}, {kData + 200, 30, true}});
  ASSERT_TRUE(device_.Pop(&chain_));
  ASSERT_EQ(chain_.readable().size(), 2u);
  ASSERT_EQ(chain_.writable().size(), 1u);
  EXPECT_EQ(chain_.readable()[0].iov_base, memory_.Translate(kData, 1));
  EXPECT_EQ(chain_.readable()[1].iov_base, memory_.Translate(kData + 100, 1));
  EXPECT_EQ(chain_.readable()[1].iov_len, 20u);
  EXPECT_EQ(chain_.writable()[0].iov_base, memory_.Translate(kData + 200, 1));
  EXPECT_EQ(chain_.readable_bytes(), 30u);
  EXPECT_EQ(chain_.writable_bytes(), 30u);
  EXPECT_FALSE(device_.Pop(&chain_));
  EXPECT_EQ(device_.fault(), QueueFault::kNone);
}

TEST_F(VirtioQueue, ReturnsChainsThroughManyWrapArounds) {
  for (uint32_t i = 0; i < 70000; i++) {
    const uint16_t head = driver_->Add({{kData + i % 512, 4, false}, {kData + 1000, 8, true}});
    ASSERT_TRUE(device_.Pop(&chain_));
    device_.AddUsed(chain_, i);
    const auto used = driver_->Take();
    ASSERT_TRUE(used.has_value());
    ASSERT_EQ(used->first, head);
    ASSERT_EQ(used->second, i);
  }
  EXPECT_EQ(driver_->UsedIndex(), static_cast<uint16_t>(70000));
  EXPECT_EQ(driver_->free_descriptors(), 8u);
}

TEST_F(VirtioQueue, ReturnsChainsOutOfOrder) {
  const uint16_t first = driver_->Add({{kData, 4, true}});
  const uint16_t second = driver_->Add({{kData + 8, 4, true}});
  Chain other;
  ASSERT_TRUE(device_.Pop(&chain_));
  ASSERT_TRUE(device_.Pop(&other));
  device_.AddUsed(other, 2);
  device_.AddUsed(chain_, 1);
  EXPECT_EQ(driver_->Take(), std::pair(second, 2u));
  EXPECT_EQ(driver_->Take(), std::pair(first, 1u));
}

TEST_F(VirtioQueue, UnpoppedChainsComeAgain) {
  driver_->Add({{kData, 4, true}});
  driver_->Add({{kData + 64, 4, true}});
  ASSERT_TRUE(device_.Pop(&chain_));
  ASSERT_TRUE(device_.Pop(&chain_));
  device_.Unpop(2);
  ASSERT_TRUE(device_.Pop(&chain_));
  EXPECT_EQ(chain_.writable()[0].iov_base, memory_.Translate(kData, 1));
}

TEST_F(VirtioQueue, WalksIndirectTables) {
  driver_->Add(
      {{kData, 1, false}, {kData + 10, 2, false}, {kData + 20, 3, true}, {kData + 30, 4, true}},
      kTable + 8);  // indirect tables need no alignment
  ASSERT_TRUE(device_.Pop(&chain_));
  EXPECT_EQ(chain_.readable_bytes(), 3u);
  EXPECT_EQ(chain_.writable_bytes(), 7u);
  EXPECT_EQ(chain_.writable().size(), 2u);
}

TEST_F(VirtioQueue, AnIndirectTableMayEndADirectChain) {
  driver_->SetDescriptor(kTable, 0, kData + 50, 5, kWriteFlag, 0);
  driver_->SetDescriptor(driver_->descriptors(), 0, kData, 3, kNextFlag, 1);
  // The device must ignore WRITE on the descriptor that refers to the table (section 2.7.5.3.2).
  driver_->SetDescriptor(driver_->descriptors(), 1, kTable, 16, kIndirectFlag | kWriteFlag, 0);
  driver_->Publish(0);
  ASSERT_TRUE(device_.Pop(&chain_));
  EXPECT_EQ(chain_.readable_bytes(), 3u);
  EXPECT_EQ(chain_.writable_bytes(), 5u);
}

TEST_F(VirtioQueue, KeepsNoEmptyBuffers) {
  driver_->Add({{0xffff'ffff'ffff'0000, 0, false}, {kData, 5, false}, {kData, 0, true}});
  ASSERT_TRUE(device_.Pop(&chain_));
  EXPECT_EQ(chain_.readable().size(), 1u);
  EXPECT_EQ(chain_.writable().size(), 0u);
}

TEST_F(VirtioQueue, TakesBuffersUpToTheVeryEndOfRam) {
  driver_->Add({{kRam - 16, 16, true}});
  ASSERT_TRUE(device_.Pop(&chain_));
  EXPECT_EQ(chain_.writable_bytes(), 16u);
}

// --- Malformed chains ---

TEST_F(VirtioQueue, RefusesAnAvailIndexThatRunsAway) {
  driver_->SetAvailIndex(9);
  ExpectFault(QueueFault::kAvailIndex);
}

TEST_F(VirtioQueue, RefusesAnAvailIndexThatRunsBackwards) {
  driver_->SetAvailIndex(0xffff);
  ExpectFault(QueueFault::kAvailIndex);
}

TEST_F(VirtioQueue, RefusesAHeadBeyondTheTable) {
  driver_->Publish(8);
  ExpectFault(QueueFault::kHeadRange);
}

TEST_F(VirtioQueue, RefusesANextBeyondTheTable) {
  PublishRaw(kData, 4, kNextFlag, 8);
  ExpectFault(QueueFault::kNextRange);
}

TEST_F(VirtioQueue, RefusesALoop) {
  driver_->SetDescriptor(driver_->descriptors(), 1, kData, 4, kNextFlag, 0);
  PublishRaw(kData, 4, kNextFlag, 1);
  ExpectFault(QueueFault::kLoop);
}

TEST_F(VirtioQueue, RefusesALoopOfEmptyBuffers) {
  PublishRaw(kData, 0, kNextFlag, 0);
  ExpectFault(QueueFault::kLoop);
}

TEST_F(VirtioQueue, RefusesALoopInAnIndirectTable) {
  driver_->SetDescriptor(kTable, 0, kData, 4, kNextFlag, 1);
  driver_->SetDescriptor(kTable, 1, kData, 4, kNextFlag, 0);
  PublishRaw(kTable, 32, kIndirectFlag);
  ExpectFault(QueueFault::kLoop);
}

TEST_F(VirtioQueue, RefusesAReadableBufferBehindAWritableOne) {
  driver_->SetDescriptor(driver_->descriptors(), 1, kData, 4, 0, 0);
  PublishRaw(kData, 4, kWriteFlag | kNextFlag, 1);
  ExpectFault(QueueFault::kOrder);
}

TEST_F(VirtioQueue, RefusesBuffersOutsideRam) {
  for (const auto& [address, length] :
       std::vector<std::pair<uint64_t, uint32_t>>{{kRam, 1},
                                                  {kRam - 1, 2},
                                                  {0xd000'0000, 4096},
                                                  {0x1'0000'0000, 4096},
                                                  {UINT64_MAX, 1},
                                                  {UINT64_MAX - 7, 16},
                                                  {0, UINT32_MAX},
                                                  {kRam - 4096, UINT32_MAX}}) {
    SCOPED_TRACE(address);
    Build(8, true, true);
    PublishRaw(address, length, kWriteFlag);
    ExpectFault(QueueFault::kBufferAddress);
  }
}

TEST_F(VirtioQueue, RefusesAnIndirectDescriptorThatWasNotNegotiated) {
  Build(8, false, true);
  driver_->SetDescriptor(kTable, 0, kData, 4, 0, 0);
  PublishRaw(kTable, 16, kIndirectFlag);
  ExpectFault(QueueFault::kIndirectNotNegotiated);
}

TEST_F(VirtioQueue, RefusesNestedIndirectTables) {
  driver_->SetDescriptor(kTable, 0, kTable, 16, kIndirectFlag, 0);
  PublishRaw(kTable, 16, kIndirectFlag);
  ExpectFault(QueueFault::kIndirectNested);
}

TEST_F(VirtioQueue, RefusesIndirectTogetherWithNext) {
  PublishRaw(kTable, 16, kIndirectFlag | kNextFlag, 1);
  ExpectFault(QueueFault::kIndirectNext);
}

TEST_F(VirtioQueue, RefusesIndirectTablesOfWrongSizesAndAddresses) {
  for (const auto& [address, length] :
       std::vector<std::pair<uint64_t, uint32_t>>{{kTable, 0},
                                                  {kTable, 15},
                                                  {kTable, 17},
                                                  {kRam - 16, 32},
                                                  {UINT64_MAX - 15, 16},
                                                  {kTable, 0xffff'fff0}}) {
    SCOPED_TRACE(length);
    Build(8, true, true);
    PublishRaw(address, length, kIndirectFlag);
    ExpectFault(QueueFault::kIndirectTable);
  }
}

TEST_F(VirtioQueue, RefusesANextBeyondTheIndirectTable) {
  driver_->SetDescriptor(kTable, 0, kData, 4, kNextFlag, 2);
  PublishRaw(kTable, 32, kIndirectFlag);
  ExpectFault(QueueFault::kNextRange);
}

TEST_F(VirtioQueue, TakesAsManyBuffersAsReadvDoesAndNoMore) {
  for (const uint16_t count : {kMaxChainBuffers, kMaxChainBuffers + 1}) {
    Build(8, true, true);
    for (uint16_t i = 0; i < count; i++) {
      driver_->SetDescriptor(kTable, i, kData, 1, i + 1 < count ? kNextFlag : 0,
                             static_cast<uint16_t>(i + 1));
    }
    PublishRaw(kTable, 16u * count, kIndirectFlag);
    if (count == kMaxChainBuffers) {
      ASSERT_TRUE(device_.Pop(&chain_));
      EXPECT_EQ(chain_.readable().size(), kMaxChainBuffers);
    } else {
      ExpectFault(QueueFault::kTooManyBuffers);
    }
  }
}

TEST_F(VirtioQueue, RefusesAChainOf4GiB) {
  // 1024 times 4 MiB of the same RAM.
  for (uint16_t i = 0; i < 1024; i++) {
    driver_->SetDescriptor(kTable, i, 0, kRam, i < 1023 ? kNextFlag : 0,
                           static_cast<uint16_t>(i + 1));
  }
  PublishRaw(kTable, 16 * 1024, kIndirectFlag);
  ExpectFault(QueueFault::kTooManyBytes);
}

TEST_F(VirtioQueue, RefusesImpossibleLayouts) {
  const QueueLayout good = driver_->Layout(true, true);
  const auto refused = [&](auto change) {
    QueueLayout layout = good;
    change(layout);
    const Result<Queue> result = Queue::Create(&memory_, layout);
    return !result.ok() && result.error().code == "ERR_VIRTQUEUE";
  };
  EXPECT_TRUE(refused([](QueueLayout& l) { l.size = 0; }));
  EXPECT_TRUE(refused([](QueueLayout& l) { l.size = 6; }));
  EXPECT_TRUE(refused([](QueueLayout& l) { l.size = 65535; }));
  EXPECT_TRUE(refused([](QueueLayout& l) { l.descriptors += 8; }));
  EXPECT_TRUE(refused([](QueueLayout& l) { l.driver_area += 1; }));
  EXPECT_TRUE(refused([](QueueLayout& l) { l.device_area += 2; }));
  EXPECT_TRUE(refused([](QueueLayout& l) { l.descriptors = kRam - 16; }));
  EXPECT_TRUE(refused([](QueueLayout& l) { l.driver_area = kRam - 8; }));
  EXPECT_TRUE(refused([](QueueLayout& l) { l.device_area = kRam - 8; }));
  EXPECT_TRUE(refused([](QueueLayout& l) { l.device_area = UINT64_MAX - 3; }));
  EXPECT_FALSE(refused([](QueueLayout&) {}));
}

// --- Notifications ---

TEST_F(VirtioQueue, EventIndexAsksForOneKickAfterADrain) {
  uint16_t before = driver_->next_avail();
  driver_->Add({{kData, 4, false}});
  EXPECT_TRUE(driver_->NeedsKick(before, true));
  ASSERT_TRUE(device_.Pop(&chain_));
  // While the device is at it, further chains need no kick.
  before = driver_->next_avail();
  driver_->Add({{kData, 4, false}});
  EXPECT_FALSE(driver_->NeedsKick(before, true));
  EXPECT_TRUE(device_.EnableNotification());
  ASSERT_TRUE(device_.Pop(&chain_));
  EXPECT_FALSE(device_.EnableNotification());
  before = driver_->next_avail();
  driver_->Add({{kData, 4, false}});
  EXPECT_TRUE(driver_->NeedsKick(before, true));
}

TEST_F(VirtioQueue, FlagsAskForKicksWithoutEventIndex) {
  Build(8, true, false);
  EXPECT_TRUE(driver_->NeedsKick(0, false));
  device_.DisableNotification();
  EXPECT_FALSE(driver_->NeedsKick(0, false));
  EXPECT_FALSE(device_.EnableNotification());
  EXPECT_TRUE(driver_->NeedsKick(0, false));
}

TEST_F(VirtioQueue, InterruptsAreSuppressedByTheUsedEvent) {
  const auto serve = [this] {
    driver_->Add({{kData, 4, true}});
    ASSERT_TRUE(device_.Pop(&chain_));
    device_.AddUsed(chain_, 4);
  };
  EXPECT_FALSE(device_.NeedsInterrupt());
  driver_->SetUsedEvent(2);
  serve();
  EXPECT_FALSE(device_.NeedsInterrupt());
  serve();
  EXPECT_FALSE(device_.NeedsInterrupt());
  serve();
  EXPECT_TRUE(device_.NeedsInterrupt());
  EXPECT_FALSE(device_.NeedsInterrupt());
  serve();
  EXPECT_FALSE(device_.NeedsInterrupt());
  driver_->SetUsedEvent(5);
  serve();
  serve();
  EXPECT_TRUE(device_.NeedsInterrupt());
}

TEST_F(VirtioQueue, InterruptsAreSuppressedByTheFlagWithoutEventIndex) {
  Build(8, true, false);
  driver_->Add({{kData, 4, true}});
  driver_->Add({{kData, 4, true}});
  driver_->SetAvailFlags(1);
  ASSERT_TRUE(device_.Pop(&chain_));
  device_.AddUsed(chain_, 4);
  EXPECT_FALSE(device_.NeedsInterrupt());
  driver_->SetAvailFlags(0);
  ASSERT_TRUE(device_.Pop(&chain_));
  device_.AddUsed(chain_, 4);
  EXPECT_TRUE(device_.NeedsInterrupt());
}

}  // namespace
}  // namespace clearvm::virtio::testing
