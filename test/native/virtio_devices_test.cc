#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <mutex>
#include <set>

#include "native/virtio/balloon.h"
#include "native/virtio/console.h"
#include "native/virtio/fs9p.h"
#include "native/virtio/rng.h"
#include "test/native/virtio_driver.h"

namespace clearvm::virtio::testing {
namespace {

constexpr uint64_t kData = 0x80'0000;
constexpr uint64_t kTable = 0x70'0000;

TEST(VirtioConsole, PrintsInOrder) {
  std::mutex mutex;
  std::string output;
  DeviceFixture fixture;
  fixture.Attach(CreateConsole([&](std::span<const uint8_t> bytes) {
    std::lock_guard lock(mutex);
    output.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }));
  fixture.StartLoop();
  ASSERT_TRUE(fixture.Start());
  EXPECT_EQ(fixture.Read(0x100), 0u) << "no columns, no rows";
  std::string expected;
  for (int i = 0; i < 500; i++) {
    const std::string line = "[    0." + std::to_string(i) + "] a line of the kernel log\n";
    expected += line;
    std::memcpy(fixture.At(kData, line.size()), line.data(), line.size());
    const uint16_t before = fixture.queue(1).next_avail();
    const auto half = static_cast<uint32_t>(line.size() / 2);
    fixture.queue(1).Add(
        {{kData, half, false}, {kData + half, static_cast<uint32_t>(line.size()) - half, false}});
    fixture.KickIfNeeded(1, before);
    ASSERT_TRUE(Eventually([&] { return fixture.queue(1).Take().has_value(); }));
  }
  std::lock_guard lock(mutex);
  EXPECT_EQ(output, expected);
}

TEST(VirtioConsole, AFloodIsCutAndWritableBuffersAreNotRead) {
  std::atomic<size_t> taken{0};
  DeviceFixture fixture;
  fixture.Attach(CreateConsole([&](std::span<const uint8_t> bytes) { taken += bytes.size(); }));
  fixture.StartLoop();
  ASSERT_TRUE(fixture.Start());
  fixture.queue(1).Add({{kData, 1 << 20, false}, {kData, 1 << 20, false}, {kData, 512, true}});
  fixture.Kick(1);
  ASSERT_TRUE(Eventually([&] { return fixture.queue(1).Take().has_value(); }));
  EXPECT_EQ(taken, 65536u);
}

TEST(VirtioBalloon, GivesBackWhatIsReportedAndWhatIsInflated) {
  DeviceFixture fixture;
  fixture.Attach(CreateBalloon(fixture.memory(), 7));
  fixture.StartLoop();
  ASSERT_TRUE(fixture.Start());
  EXPECT_EQ(fixture.Read(0x100), 7u) << "num_pages";
  constexpr size_t kSize = 16 * 4096;
  std::memset(fixture.At(kData, kSize), 1, kSize);
  const auto used = [&](size_t queue) {
    fixture.Kick(queue);
    return Eventually([&] { return fixture.queue(queue).Take().has_value(); });
  };
  // Half a page at its end, which is not given away.
  fixture.queue(2).Add({{kData + 4096, 4096 + 2048, true}});
  ASSERT_TRUE(used(2));
  // Up, down, twice the same, and none of the guest's.
  const uint32_t first = kData / 4096;
  const std::vector<uint32_t> pages = {first + 4, first + 5,  first + 9, first + 8,
                                       first + 8, UINT32_MAX, 0xdffff};
  std::memcpy(fixture.At(kTable, 64), pages.data(), pages.size() * 4);
  fixture.queue(0).Add({{kTable, static_cast<uint32_t>(pages.size() * 4), false}});
  ASSERT_TRUE(used(0));
  fixture.queue(1).Add({{kTable, 4, false}});
  ASSERT_TRUE(used(1));
  std::string kept;
  for (size_t page = 0; page < 16; page++) kept += *fixture.At(kData + page * 4096, 1) ? 'x' : '.';
  EXPECT_EQ(kept, "x.xx..xx..xxxxxx");
}

TEST(VirtioRng, FillsBuffersWithEntropy) {
  DeviceFixture fixture;
  fixture.Attach(CreateRng());
  fixture.StartLoop();
  ASSERT_TRUE(fixture.Start());
  std::set<std::string> seen;
  for (int i = 0; i < 100; i++) {
    std::memset(fixture.At(kData, 64), 0, 64);
    fixture.queue(0).Add({{kData, 24, true}, {kData + 32, 8, true}});
    fixture.Kick(0);
    std::optional<std::pair<uint16_t, uint32_t>> used;
    ASSERT_TRUE(Eventually([&] { return (used = fixture.queue(0).Take()).has_value(); }));
    ASSERT_EQ(used->second, 32u);
    seen.emplace(reinterpret_cast<char*>(fixture.At(kData, 40)), 40);
    EXPECT_EQ(*reinterpret_cast<uint64_t*>(fixture.At(kData + 24, 8)), 0u) << "outside the buffers";
  }
  EXPECT_EQ(seen.size(), 100u);
}

TEST(VirtioRng, BoundsARequestAndLeavesReadableBuffersAlone) {
  DeviceFixture fixture;
  fixture.Attach(CreateRng());
  fixture.StartLoop();
  ASSERT_TRUE(fixture.Start());
  std::memset(fixture.At(kData, 16 << 20), 0, 16 << 20);
  fixture.queue(0).Add({{kData, 4096, false}, {kData + 8192, 8 << 20, true}});
  fixture.Kick(0);
  std::optional<std::pair<uint16_t, uint32_t>> used;
  ASSERT_TRUE(Eventually([&] { return (used = fixture.queue(0).Take()).has_value(); }));
  EXPECT_EQ(used->second, 4096u);
  for (int i = 0; i < 4096; i++) ASSERT_EQ(fixture.At(kData, 4096)[i], 0);
  for (int i = 4096; i < 8192; i++) ASSERT_EQ(fixture.At(kData + 8192, 8192)[i], 0);
}

TEST(VirtioRng, ServesMoreThanItsBudgetAtOnce) {
  DeviceFixture fixture;
  fixture.Attach(CreateRng());
  ASSERT_TRUE(fixture.Start());
  for (int i = 0; i < 8; i++) fixture.queue(0).Add({{kData, 16, true}});
  fixture.Kick(0);
  fixture.StartLoop();
  ASSERT_TRUE(Eventually([&] { return fixture.queue(0).UsedIndex() == 8; }));
}

class Virtio9p : public ::testing::Test, public DeviceFixture {
 protected:
  void SetUp() override {
    char path[] = "/tmp/clearvm-virtio-9p-XXXXXX";
    directory_ = ::mkdtemp(path);
    p9::Export config;
    config.root = UniqueFd(::open(directory_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    auto server = p9::Server::Create(std::move(config));
    ASSERT_TRUE(server.ok()) << server.error().message;
    auto device = Create9p("root", std::move(server).value());
    ASSERT_TRUE(device.ok());
    Attach(std::move(device).value());
    StartLoop();
  }
  void TearDown() override { ::rmdir(directory_.c_str()); }

  // Tversion 9P2000.L with the given tag.
  uint32_t PutVersion(uint64_t address, uint16_t tag) {
    static constexpr char kVersion[] = "9P2000.L";
    const uint32_t size = 4 + 1 + 2 + 4 + 2 + 8;
    uint8_t* at = At(address, size);
    const uint32_t msize = 65536;
    const uint16_t length = 8;
    std::memcpy(at, &size, 4);
    at[4] = 100;
    std::memcpy(at + 5, &tag, 2);
    std::memcpy(at + 7, &msize, 4);
    std::memcpy(at + 11, &length, 2);
    std::memcpy(at + 13, kVersion, 8);
    return size;
  }

  std::string directory_;
};

TEST_F(Virtio9p, TellsItsTag) {
  Write(0x14, 0);
  EXPECT_EQ(Read(0x10) & 1, 1u) << "VIRTIO_9P_MOUNT_TAG";
  uint16_t length = 0;
  transport()->Read(0x100, {reinterpret_cast<uint8_t*>(&length), 2});
  EXPECT_EQ(length, 4);
  std::string tag;
  for (uint64_t i = 0; i < 6; i++) {
    uint8_t byte = 0xff;
    transport()->Read(0x102 + i, {&byte, 1});
    if (byte != 0) tag.push_back(static_cast<char>(byte));
  }
  EXPECT_EQ(tag, "root");
}

TEST_F(Virtio9p, AnswersARequest) {
  ASSERT_TRUE(Start());
  const uint32_t size = PutVersion(kData, 0xffff);
  queue(0).Add({{kData, 7, false},
                {kData + 7, size - 7, false},
                {kData + 4096, 7, true},
                {kData + 8192, 4089, true}},
               kTable);
  Kick(0);
  std::optional<std::pair<uint16_t, uint32_t>> used;
  ASSERT_TRUE(Eventually([&] { return (used = queue(0).Take()).has_value(); }));
  EXPECT_EQ(used->second, size);
  EXPECT_EQ(At(kData + 4096, 7)[4], 101) << "Rversion";
  EXPECT_EQ(std::memcmp(At(kData + 8192 + 6, 8), "9P2000.L", 8), 0);
  EXPECT_TRUE(Eventually([this] { return TakeInterrupts() != 0; }));
}

TEST_F(Virtio9p, ServesAFullQueueWithFewKicksAndInterrupts) {
  ASSERT_TRUE(Start());
  uint64_t interrupts = 0;
  for (int round = 0; round < 20; round++) {
    for (uint64_t i = 0; i < 64; i++) {
      const uint64_t at = kData + i * 8192;
      const uint32_t size = PutVersion(at, 0xffff);
      const uint16_t before = queue(0).next_avail();
      queue(0).Add({{at, size, false}, {at + 4096, 4096, true}});
      if (i == 63) KickIfNeeded(0, static_cast<uint16_t>(before - 63));
    }
    ASSERT_TRUE(Eventually([this] { return queue(0).UsedIndex() == queue(0).next_avail(); }));
    while (auto used = queue(0).Take()) ASSERT_EQ(used->second, 21u);
    interrupts += TakeInterrupts();
  }
  EXPECT_LE(kicks(), 20u);
  EXPECT_LE(interrupts, 20u)
      << "event indices: one interrupt for what the driver has not looked at";
  EXPECT_GE(interrupts, 1u);
}

TEST_F(Virtio9p, AnswersNothingWhereNothingFits) {
  ASSERT_TRUE(Start());
  const uint32_t size = PutVersion(kData, 1);
  queue(0).Add({{kData, size, false}});
  queue(0).Add({{kData, size, false}, {kData + 4096, 3, true}});
  queue(0).Add({{kData + 4096, 64, true}});
  Kick(0);
  ASSERT_TRUE(Eventually([this] { return queue(0).UsedIndex() == 3; }));
  EXPECT_EQ(queue(0).Take()->second, 0u);
  EXPECT_EQ(queue(0).Take()->second, 0u);
  EXPECT_LE(queue(0).Take()->second, 64u);
  EXPECT_EQ(Read(0x70) & 64, 0u);
}

TEST(Virtio9pTag, IsChecked) {
  for (const char* tag :
       {"", "a/b", "with space", "0123456789012345678901234567890x", "\xc3\xa4"}) {
    const auto result = Create9p(tag, nullptr);
    ASSERT_FALSE(result.ok()) << tag;
    EXPECT_EQ(result.error().code, "ERR_9P_TAG");
  }
  EXPECT_TRUE(Create9p("Root_1.x-y", nullptr).ok());
}

}  // namespace
}  // namespace clearvm::virtio::testing
