#include <signal.h>

#include "native/virtio/fs9p.h"
#include "native/virtio/rng.h"
#include "native/virtio/vsock.h"
#include "test/native/virtio_vsock_guest.h"

namespace clearvm::virtio::testing {
namespace {

class VirtioState : public ::testing::Test, public VsockGuest {
 protected:
  void SetUp() override { ::signal(SIGPIPE, SIG_IGN); }

  // A vsock device with port 1024 on one end of a socket pair, whose other end is `*host`.
  static std::unique_ptr<Device> MakeVsock(EventLoop* loop, UniqueFd* host) {
    auto [ours, theirs] = SocketPair();
    VsockOptions options;
    options.guest_cid = kCid;
    options.ports.push_back({1024, Dup(theirs), std::move(theirs)});
    *host = std::move(ours);
    return std::move(CreateVsock(std::move(options), loop)).value();
  }
  void BootVsock(UniqueFd* host) {
    Attach(MakeVsock(loop(), host));
    StartLoop();
    ASSERT_TRUE(Start());
    PostReceive(16);
    Connect(50000, 1024);
    Send(kOpRw, 50000, 1024, "ready");
    EXPECT_EQ(ReadBytes(host->get(), 5), "ready");
    Settle();
  }
};

TEST_F(VirtioState, AVsockConnectionGoesOnInAnotherDevice) {
  UniqueFd host;
  UniqueFd other_host;
  BootVsock(&host);
  ByteWriter state;
  ASSERT_TRUE(Save(&state).ok());
  const auto restored =
      Restore([&](EventLoop* loop) { return MakeVsock(loop, &other_host); }, state.bytes());
  ASSERT_TRUE(restored.ok()) << restored.error().message;
  WriteBytes(other_host.get(), "orders");
  const Packet packet = Expect(kOpRw, 50000, 1024);
  EXPECT_EQ(packet.payload, "orders");
  EXPECT_EQ(packet.header.fwd_cnt, 5u) << "the credit goes on as well";
  Send(kOpRw, 50000, 1024, "done");
  EXPECT_EQ(ReadBytes(other_host.get(), 4), "done");
}

TEST_F(VirtioState, AConnectionWithBytesUnderWayIsNotSaved) {
  UniqueFd host;
  BootVsock(&host);
  for (int i = 0; i < 4; i++) Send(kOpRw, 50000, 1024, Pattern(60000));  // nobody reads
  Settle();
  ByteWriter state;
  const auto saved = Save(&state);
  ASSERT_FALSE(saved.ok());
  EXPECT_EQ(saved.error().code, "ERR_DEVICE_BUSY");
}

TEST_F(VirtioState, AStreamThatCanBeReplacedGoesOnWithRoomForMore) {
  UniqueFd host;
  const auto make = [&](EventLoop* loop) {
    auto [ours, theirs] = SocketPair();
    VsockOptions options;
    options.guest_cid = kCid;
    options.ports.push_back({1026, Dup(theirs), std::move(theirs), true});
    host = std::move(ours);
    return std::move(CreateVsock(std::move(options), loop)).value();
  };
  Attach(make(loop()));
  StartLoop();
  ASSERT_TRUE(Start());
  PostReceive(16);
  Connect(50000, 1026);
  // Nobody reads: the device has what the socket does not take.
  for (int i = 0; i < 4; i++) Send(kOpRw, 50000, 1026, Pattern(60000));
  Settle();
  ByteWriter state;
  ASSERT_TRUE(Save(&state).ok());
  ASSERT_TRUE(Restore(make, state.bytes()).ok());
  // What was sent is the old host's; the guest learns that there is room again.
  Packet packet = Expect(kOpCreditUpdate, 50000, 1026);
  // There are some of before, for what the socket has taken: one for each half of the window at
  // most.
  for (int i = 0; i < 4 && packet.header.fwd_cnt != 240000u; i++) {
    packet = Expect(kOpCreditUpdate, 50000, 1026);
  }
  EXPECT_EQ(packet.header.fwd_cnt, 240000u);
  Send(kOpRw, 50000, 1026, "new");
  EXPECT_EQ(ReadBytes(host.get(), 3), "new");
}

TEST_F(VirtioState, WhateverIsRestoredItIsAnErrorOrADevice) {
  UniqueFd host;
  BootVsock(&host);
  ByteWriter state;
  ASSERT_TRUE(Save(&state).ok());
  const std::vector<uint8_t> good(state.bytes().begin(), state.bytes().end());
  const auto make = [&](EventLoop* loop) { return MakeVsock(loop, &host); };
  for (size_t size = 0; size < good.size(); size++) {
    EXPECT_FALSE(Restore(make, std::span(good).first(size)).ok()) << size;
  }
  for (size_t i = 0; i < good.size(); i++) {
    std::vector<uint8_t> bad = good;
    bad[i] ^= 0xff;
    (void)Restore(make, bad);  // ASan and UBSan watch
  }
  EXPECT_TRUE(Restore(make, good).ok());
}

TEST_F(VirtioState, ASilentRngAnswersInTheFork) {
  Attach(CreateRng(true));
  StartLoop();
  ASSERT_TRUE(Start());
  queue(0).Add({{0x40'0000, 64, true}});
  Kick(0);
  ByteWriter state;
  ASSERT_TRUE(Save(&state).ok());
  EXPECT_FALSE(queue(0).Take().has_value());
  ASSERT_TRUE(Restore([](EventLoop*) { return CreateRng(); }, state.bytes()).ok());
  ASSERT_TRUE(Eventually([this] { return queue(0).UsedIndex() == 1; }));
  EXPECT_EQ(queue(0).Take()->second, 64u);
}

TEST_F(VirtioState, A9pDeviceWithoutAServerAnswersWithAnError) {
  Attach(std::move(Create9p("spare", nullptr)).value());
  StartLoop();
  ASSERT_TRUE(Start());
  // Tversion, tag 0x1234.
  const uint8_t request[] = {21, 0, 0,   0,   100, 0x34, 0x12, 0,   0,   1,  0,
                             8,  0, '9', 'P', '2', '0',  '0',  '0', '.', 'L'};
  std::memcpy(At(0x40'0000, sizeof request), request, sizeof request);
  queue(0).Add({{0x40'0000, sizeof request, false}, {0x41'0000, 64, true}});
  Kick(0);
  ASSERT_TRUE(Eventually([this] { return queue(0).UsedIndex() == 1; }));
  EXPECT_EQ(queue(0).Take()->second, 11u);
  const uint8_t reply[] = {11, 0, 0, 0, 7, 0x34, 0x12, ENODEV, 0, 0, 0};
  EXPECT_EQ(std::memcmp(At(0x41'0000, sizeof reply), reply, sizeof reply), 0);
  // Too short to be answered: it is given back.
  queue(0).Add({{0x40'0000, 3, false}, {0x41'0000, 64, true}});
  Kick(0);
  ASSERT_TRUE(Eventually([this] { return queue(0).UsedIndex() == 2; }));
  EXPECT_EQ(queue(0).Take()->second, 0u);
}

}  // namespace
}  // namespace clearvm::virtio::testing
