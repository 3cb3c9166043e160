#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <atomic>

#include "native/virtio/vsock.h"
#include "test/native/virtio_vsock_guest.h"

namespace clearvm::virtio::testing {
namespace {

constexpr uint32_t kWindow = 256 * 1024;

class VirtioVsock : public ::testing::Test, public VsockGuest {
 protected:
  void SetUp() override { ::signal(SIGPIPE, SIG_IGN); }

  // Port `port` on one end of a socket pair; the other end is returned.
  UniqueFd BootWithSocket(uint32_t port, size_t buffers = 64) {
    auto [ours, theirs] = SocketPair();
    VsockOptions options = Options();
    options.ports.push_back({port, Dup(theirs), std::move(theirs)});
    Boot(std::move(options), buffers);
    return std::move(ours);
  }
  VsockOptions Options() {
    VsockOptions options;
    options.on_first_bytes = [this](uint32_t port) { first_bytes_ += port; };
    options.on_drained = [this](uint32_t port) { drained_ += port; };
    return options;
  }
  bool HasEnd(int fd) {
    pollfd poll{fd, POLLIN, 0};
    return ::poll(&poll, 1, 10000) == 1 && ReadBytes(fd, 1).empty();
  }

  std::atomic<uint32_t> first_bytes_{0};
  std::atomic<uint32_t> drained_{0};
};

TEST_F(VirtioVsock, ConnectsAndCarriesBytesBothWays) {
  const UniqueFd host = BootWithSocket(1024);
  Send(kOpRequest, 50000, 1024);
  const Packet response = Expect(kOpResponse, 50000, 1024);
  EXPECT_EQ(response.header.buf_alloc, kWindow);
  EXPECT_EQ(response.header.fwd_cnt, 0u);
  Send(kOpRw, 50000, 1024, "from the guest");
  EXPECT_EQ(ReadBytes(host.get(), 14), "from the guest");
  Send(kOpRw, 50000, 1024, "!");
  EXPECT_EQ(ReadBytes(host.get(), 1), "!");
  EXPECT_EQ(first_bytes_, 1024u) << "once";
  WriteBytes(host.get(), "from the host");
  const Packet bytes = Expect(kOpRw, 50000, 1024);
  EXPECT_EQ(bytes.payload, "from the host");
  EXPECT_EQ(bytes.header.fwd_cnt, 15u);
  EXPECT_EQ(drained_, 0u);
}

TEST_F(VirtioVsock, WorksWithoutEventIndexAndIndirectDescriptors) {
  auto [ours, theirs] = SocketPair();
  VsockOptions options;
  options.guest_cid = kCid;
  options.ports.push_back({9, Dup(theirs), std::move(theirs)});
  Attach(std::move(CreateVsock(std::move(options), loop())).value());
  StartLoop();
  ASSERT_TRUE(Start(kFeatureVersion1));
  for (uint64_t i = 0; i < 4; i++) queue(0).Add({{kReceiveBuffers + i * 4096, 4096, true}});
  Kick(0);
  const VsockHeader request = Header(kOpRequest, 1, 9);
  std::memcpy(At(kSendBuffers, 44), &request, 44);
  queue(1).Add({{kSendBuffers, 44, false}});
  Kick(1);
  ASSERT_TRUE(Eventually([this] { return queue(0).UsedIndex() == 1; }));
  WriteBytes(ours.get(), "x");
  ASSERT_TRUE(Eventually([this] { return queue(0).UsedIndex() == 2; }));
}

TEST_F(VirtioVsock, RefusesPortsThatAreNotServed) {
  const UniqueFd host = BootWithSocket(1024);
  Send(kOpRequest, 1, 1023);
  Expect(kOpRst, 1, 1023);
  Connect(1, 1024);
  Send(kOpRequest, 2, 1024);
  Expect(kOpRst, 2, 1024);
  Send(kOpRw, 1, 1024, "still there");
  EXPECT_EQ(ReadBytes(host.get(), 11), "still there");
}

TEST_F(VirtioVsock, ResetsPacketsOfConnectionsThatAreNotThere) {
  const UniqueFd host = BootWithSocket(1024);
  for (const VsockOp op : {kOpRw, kOpResponse, kOpShutdown, kOpCreditUpdate, kOpCreditRequest,
                           static_cast<VsockOp>(0), static_cast<VsockOp>(99)}) {
    Send(op, 4, 1024);
    Expect(kOpRst, 4, 1024);
  }
  Send(kOpRst, 4, 1024);
  Settle();
  ExpectSilence();
}

TEST_F(VirtioVsock, DropsPacketsWithAWrongSender) {
  const UniqueFd host = BootWithSocket(1024);
  for (const uint64_t cid : std::vector<uint64_t>{0, 2, 8, kCid | 1ull << 32}) {
    VsockHeader header = Header(kOpRequest, 1, 1024);
    header.src_cid = cid;
    Send(header);
  }
  Settle();
  ExpectSilence();
}

TEST_F(VirtioVsock, ResetsWrongReceiversAndTypes) {
  const UniqueFd host = BootWithSocket(1024);
  VsockHeader header = Header(kOpRequest, 1, 1024);
  header.dst_cid = 2 | 1ull << 32;
  Send(header);
  Packet reset = Receive();
  EXPECT_EQ(reset.header.op, kOpRst);
  EXPECT_EQ(reset.header.src_cid, header.dst_cid);
  header = Header(kOpRequest, 1, 1024);
  header.type = 2;
  Send(header);
  reset = Receive();
  EXPECT_EQ(reset.header.op, kOpRst);
  EXPECT_EQ(reset.header.type, 2);
  header.op = kOpRst;
  Send(header);
  Settle();
  ExpectSilence();
}

TEST_F(VirtioVsock, IgnoresPacketsWithoutAWholeHeader) {
  const UniqueFd host = BootWithSocket(1024);
  const VsockHeader header = Header(kOpRequest, 1, 1024);
  std::memcpy(At(kSendBuffers, 44), &header, 44);
  queue(1).Add({{kSendBuffers, 43, false}});
  queue(1).Add({{kSendBuffers, 44, true}});
  Kick(1);
  Settle();
  ExpectSilence();
  // In pieces it is a whole one.
  queue(1).Add(
      {{kSendBuffers, 1, false}, {kSendBuffers + 1, 42, false}, {kSendBuffers + 43, 1, false}});
  Kick(1);
  Expect(kOpResponse, 1, 1024);
}

TEST_F(VirtioVsock, ResetsPacketsThatClaimMoreThanTheyHold) {
  const UniqueFd host = BootWithSocket(1024);
  Connect(1, 1024);
  VsockHeader header = Header(kOpRw, 1, 1024);
  for (const uint32_t length : {11u, UINT32_MAX}) {
    header.len = length;
    Send(header, "0123456789");
    Expect(kOpRst, 1, 1024);
  }
  EXPECT_TRUE(HasEnd(host.get())) << "none of them reaches the host";
}

TEST_F(VirtioVsock, ResetsConnectionsWhoseGuestBreaksTheProtocol) {
  VsockOptions options = Options();
  std::vector<UniqueFd> hosts;
  for (uint32_t port = 1; port <= 3; port++) {
    auto [ours, theirs] = SocketPair();
    options.ports.push_back({port, Dup(theirs), std::move(theirs)});
    hosts.push_back(std::move(ours));
  }
  Boot(std::move(options));
  uint32_t port = 1;
  for (const VsockOp op : {kOpRequest, kOpResponse, static_cast<VsockOp>(99)}) {
    Connect(10, port);
    Send(op, 10, port);
    Expect(kOpRst, 10, port);
    EXPECT_TRUE(HasEnd(hosts[port - 1].get()));
    port++;
  }
}

// --- Credit ---

TEST_F(VirtioVsock, TheGuestMayFillItsWindowAndNotOneByteMore) {
  auto [reader, writer] = Pipe();
  VsockOptions options = Options();
  options.ports.push_back({5, {}, std::move(writer)});
  Boot(std::move(options));
  Connect(1, 5);
  Expect(kOpShutdown, 1, 5);  // there is nothing to read
  // 64 KiB go into the pipe; what may be under way is buffered.
  const std::string bytes = Pattern(65536 + kWindow);
  for (size_t at = 0; at < bytes.size(); at += 65536) Send(kOpRw, 1, 5, bytes.substr(at, 65536));
  Settle();
  ExpectSilence();
  Send(kOpRw, 1, 5, "x");
  Expect(kOpRst, 1, 5);
  // What was sent within the window is written out all the same.
  EXPECT_EQ(drained_, 0u);
  EXPECT_EQ(ReadBytes(reader.get(), bytes.size() + 1), bytes);
  EXPECT_TRUE(Eventually([this] { return drained_ == 5; }));
}

TEST_F(VirtioVsock, TellsTheGuestOfRoomAsTheHostTakesBytes) {
  auto [reader, writer] = Pipe();
  VsockOptions options = Options();
  options.ports.push_back({5, {}, std::move(writer)});
  Boot(std::move(options));
  Connect(1, 5);
  Expect(kOpShutdown, 1, 5);
  const std::string bytes = Pattern(kWindow);
  for (size_t at = 0; at < bytes.size(); at += 65536) Send(kOpRw, 1, 5, bytes.substr(at, 65536));
  Settle();
  EXPECT_EQ(ReadBytes(reader.get(), kWindow), bytes);
  uint32_t forwarded = 0;
  while (forwarded < kWindow / 2) {
    const Packet update = Expect(kOpCreditUpdate, 1, 5);
    ASSERT_GT(update.header.fwd_cnt, forwarded);
    forwarded = update.header.fwd_cnt;
  }
  Send(kOpCreditRequest, 1, 5);
  Packet update = Receive();
  while (update.header.fwd_cnt < kWindow && !HasFailure()) update = Receive();
  EXPECT_EQ(update.header.op, kOpCreditUpdate);
  EXPECT_EQ(update.header.fwd_cnt, kWindow);
}

TEST_F(VirtioVsock, SendsNoMoreThanTheGuestHasRoomFor) {
  const UniqueFd host = BootWithSocket(1024);
  buf_alloc_ = 1000;
  Connect(1, 1024);
  const std::string bytes = Pattern(2500);
  WriteBytes(host.get(), bytes);
  std::string got = Expect(kOpRw, 1, 1024).payload;
  EXPECT_EQ(got.size(), 1000u);
  Expect(kOpCreditRequest, 1, 1024);
  ExpectSilence();
  Send(kOpCreditUpdate, 1, 1024);
  got += Expect(kOpRw, 1, 1024).payload;
  EXPECT_EQ(got.size(), 2000u);
  Expect(kOpCreditRequest, 1, 1024);
  // An update that brings nothing changes nothing, and is not asked for again.
  VsockHeader stale = Header(kOpCreditUpdate, 1, 1024);
  stale.fwd_cnt = 1000;
  Send(stale);
  Settle();
  ExpectSilence();
  Send(kOpCreditUpdate, 1, 1024);
  got += Expect(kOpRw, 1, 1024).payload;
  EXPECT_EQ(got, bytes);
}

TEST_F(VirtioVsock, NonsenseCreditSendsNothing) {
  const UniqueFd host = BootWithSocket(1024);
  Connect(1, 1024);
  VsockHeader header = Header(kOpCreditUpdate, 1, 1024);
  header.fwd_cnt = 0x4000'0000;  // of bytes that were never sent
  Send(header);
  Settle();
  WriteBytes(host.get(), "waits");
  ExpectSilence();
  Send(kOpCreditUpdate, 1, 1024);
  EXPECT_EQ(Expect(kOpRw, 1, 1024).payload, "waits");
}

// --- Ends ---

TEST_F(VirtioVsock, HostEndOfFileLeavesTheOtherDirectionOpen) {
  const UniqueFd host = BootWithSocket(1024);
  Connect(1, 1024);
  WriteBytes(host.get(), "last");
  ASSERT_EQ(::shutdown(host.get(), SHUT_WR), 0);
  EXPECT_EQ(Expect(kOpRw, 1, 1024).payload, "last");
  EXPECT_EQ(Expect(kOpShutdown, 1, 1024).header.flags, kShutdownSend);
  Send(kOpRw, 1, 1024, "still");
  EXPECT_EQ(ReadBytes(host.get(), 5), "still");
  Send(kOpShutdown, 1, 1024, "", kShutdownBoth);
  Expect(kOpRst, 1, 1024);
  EXPECT_TRUE(HasEnd(host.get()));
  EXPECT_EQ(drained_, 1024u);
}

TEST_F(VirtioVsock, GuestEndOfFileLeavesTheOtherDirectionOpen) {
  const UniqueFd host = BootWithSocket(1024);
  Connect(1, 1024);
  Send(kOpRw, 1, 1024, "last");
  Send(kOpShutdown, 1, 1024, "", kShutdownSend);
  EXPECT_EQ(ReadBytes(host.get(), 100), "last");
  EXPECT_TRUE(Eventually([this] { return drained_ == 1024; }));
  WriteBytes(host.get(), "still");
  EXPECT_EQ(Expect(kOpRw, 1, 1024).payload, "still");
  Send(kOpRw, 1, 1024, "after the end");
  Expect(kOpRst, 1, 1024);
}

TEST_F(VirtioVsock, GuestEndOfFileWaitsForWhatIsBuffered) {
  auto [reader, writer] = Pipe();
  VsockOptions options = Options();
  options.ports.push_back({5, {}, std::move(writer)});
  Boot(std::move(options));
  Connect(1, 5);
  Expect(kOpShutdown, 1, 5);
  const std::string bytes = Pattern(200000);
  for (size_t at = 0; at < bytes.size(); at += 50000) Send(kOpRw, 1, 5, bytes.substr(at, 50000));
  Send(kOpShutdown, 1, 5, "", kShutdownBoth);
  Expect(kOpRst, 1, 5);  // the guest need not wait for the host
  EXPECT_EQ(drained_, 0u);
  EXPECT_EQ(ReadBytes(reader.get(), 300000), bytes);
  EXPECT_TRUE(Eventually([this] { return drained_ == 5; }));
}

TEST_F(VirtioVsock, AReaderThatIsGoneShutsTheGuestsSenderDown) {
  auto [reader, writer] = Pipe();
  auto [never, silent] = Pipe();
  VsockOptions options = Options();
  options.ports.push_back({5, std::move(never), std::move(writer)});
  Boot(std::move(options));
  Connect(1, 5);
  reader.reset();
  Send(kOpRw, 1, 5, "nobody");
  EXPECT_EQ(Expect(kOpShutdown, 1, 5).header.flags, kShutdownReceive);
  EXPECT_EQ(drained_, 5u) << "it never can be";
  // What the guest had under way is swallowed, and its room given back.
  for (int i = 0; i < 8; i++) Send(kOpRw, 1, 5, Pattern(65536));
  const Packet update = Expect(kOpCreditUpdate, 1, 5);
  EXPECT_GE(update.header.fwd_cnt, kWindow / 2);
  silent.reset();
  Packet end = Receive();
  while (end.header.op == kOpCreditUpdate) end = Receive();
  EXPECT_EQ(end.header.op, kOpShutdown);
  EXPECT_EQ(end.header.flags, kShutdownBoth);
}

TEST_F(VirtioVsock, AReaderThatGoesWhileBytesAreBufferedIsNoticed) {
  auto [reader, writer] = Pipe();
  VsockOptions options = Options();
  options.ports.push_back({5, {}, std::move(writer)});
  Boot(std::move(options));
  Connect(1, 5);
  Expect(kOpShutdown, 1, 5);
  for (int i = 0; i < 3; i++) Send(kOpRw, 1, 5, Pattern(65536));
  Settle();
  reader.reset();
  Packet end = Receive();
  while (end.header.op == kOpCreditUpdate) end = Receive();
  EXPECT_EQ(end.header.op, kOpShutdown);
  EXPECT_EQ(end.header.flags, kShutdownBoth);
  EXPECT_EQ(drained_, 5u);
}

TEST_F(VirtioVsock, WithoutAReadEndTheGuestGetsEndOfFileAtOnce) {
  auto [reader, writer] = Pipe();
  VsockOptions options = Options();
  options.ports.push_back({5, {}, std::move(writer)});
  Boot(std::move(options));
  Connect(1, 5);
  EXPECT_EQ(Expect(kOpShutdown, 1, 5).header.flags, kShutdownSend);
}

TEST_F(VirtioVsock, WithoutAWriteEndTheGuestsBytesAreRefused) {
  auto [reader, writer] = Pipe();
  VsockOptions options = Options();
  options.ports.push_back({5, std::move(reader), {}});
  Boot(std::move(options));
  Connect(1, 5);
  WriteBytes(writer.get(), "in");
  EXPECT_EQ(Expect(kOpRw, 1, 5).payload, "in");
  Send(kOpRw, 1, 5, "out");
  Expect(kOpRst, 1, 5);
}

TEST_F(VirtioVsock, APeerThatClosesEndsBothDirections) {
  UniqueFd host = BootWithSocket(1024);
  Connect(1, 1024);
  WriteBytes(host.get(), "bye");
  host.reset();
  EXPECT_EQ(Expect(kOpRw, 1, 1024).payload, "bye");
  Packet end = Expect(kOpShutdown, 1, 1024);
  if (end.header.flags != kShutdownBoth) end = Expect(kOpShutdown, 1, 1024);
  EXPECT_EQ(end.header.flags, kShutdownBoth);
  Send(kOpRst, 1, 1024);
  Settle();
  ExpectSilence();
}

TEST_F(VirtioVsock, APeerThatClosesAfterItsEndOfFileIsNoticed) {
  UniqueFd host = BootWithSocket(1024);
  Connect(1, 1024);
  ASSERT_EQ(::shutdown(host.get(), SHUT_WR), 0);
  EXPECT_EQ(Expect(kOpShutdown, 1, 1024).header.flags, kShutdownSend);
  host.reset();
  EXPECT_EQ(Expect(kOpShutdown, 1, 1024).header.flags, kShutdownBoth);
}

TEST_F(VirtioVsock, AGuestThatWillNotReceiveIsSentNothing) {
  const UniqueFd host = BootWithSocket(1024);
  Connect(1, 1024);
  Send(kOpShutdown, 1, 1024, "", kShutdownReceive);
  Settle();
  WriteBytes(host.get(), "unwanted");
  ExpectSilence();
  Send(kOpRw, 1, 1024, "wanted");
  EXPECT_EQ(ReadBytes(host.get(), 6), "wanted");
}

// --- Queues ---

TEST_F(VirtioVsock, AStalledHostDoesNotHoldUpOthers) {
  auto [stalled_reader, stalled] = Pipe();
  auto [reader, writer] = Pipe();
  VsockOptions options = Options();
  options.ports.push_back({1, {}, std::move(stalled)});
  options.ports.push_back({2, {}, std::move(writer)});
  Boot(std::move(options));
  Connect(10, 1);
  Expect(kOpShutdown, 10, 1);
  Connect(10, 2);
  Expect(kOpShutdown, 10, 2);
  for (int i = 0; i < 5; i++) Send(kOpRw, 10, 1, Pattern(65536));
  for (int i = 0; i < 100; i++) {
    const std::string bytes = Pattern(30000, static_cast<uint32_t>(i));
    Send(kOpRw, 10, 2, bytes);
    ASSERT_EQ(ReadBytes(reader.get(), bytes.size()), bytes);
    while (TryReceive()) continue;
  }
}

TEST_F(VirtioVsock, WaitsForReceiveBuffers) {
  const UniqueFd host = BootWithSocket(1024, 0);
  Send(kOpRequest, 1, 1024);
  Settle();
  ExpectSilence();
  PostReceive(1);
  std::optional<Packet> packet;
  ASSERT_TRUE(Eventually([&] { return (packet = TryReceive(false)).has_value(); }));
  EXPECT_EQ(packet->header.op, kOpResponse);
  WriteBytes(host.get(), Pattern(10000));
  Send(kOpRw, 1, 1024, "meanwhile");  // the other direction flows
  EXPECT_EQ(ReadBytes(host.get(), 9), "meanwhile");
  std::string got;
  while (got.size() < 10000 && !HasFailure()) {
    PostReceive(1);
    ASSERT_TRUE(Eventually([&] { return (packet = TryReceive(false)).has_value(); }));
    got += packet->payload;
  }
  EXPECT_EQ(got, Pattern(10000));
}

TEST_F(VirtioVsock, AFloodWithoutReceiveBuffersIsHeldBack) {
  const UniqueFd host = BootWithSocket(1024, 0);
  constexpr uint32_t kTaken = 256;
  constexpr uint32_t kFlooded = kTaken + 60;
  for (uint32_t i = 0; i < kFlooded; i++) Send(kOpRw, i, 77);
  // The device takes a bounded number, and then no more.
  ASSERT_TRUE(Eventually([this] { return queue(1).UsedIndex() == kTaken; }));
  Kick(1);
  ExpectSilence();
  EXPECT_EQ(queue(1).UsedIndex(), kTaken);
  // With buffers it goes on; every packet is answered.
  PostReceive(64);
  for (uint32_t i = 0; i < kFlooded; i++) {
    const Packet reset = Receive();
    ASSERT_EQ(reset.header.op, kOpRst);
    ASSERT_EQ(reset.header.dst_port, i);
  }
}

TEST_F(VirtioVsock, AReceiveBufferTooSmallForAHeaderNeedsAReset) {
  const UniqueFd host = BootWithSocket(1024, 0);
  queue(0).Add({{kReceiveBuffers, 43, true}});
  Kick(0);
  Send(kOpRequest, 1, 1024);
  EXPECT_TRUE(Eventually([this] { return (Read(0x70) & 64) != 0; }));
}

TEST_F(VirtioVsock, AMalformedChainNeedsAReset) {
  for (const uint32_t index : {0u, 1u}) {
    VsockGuest guest;
    guest.Boot({}, 0);
    guest.queue(index).Publish(64);
    guest.Kick(index);
    if (index == 0) guest.Send(kOpRw, 1, 1);
    EXPECT_TRUE(Eventually([&] { return (guest.Read(0x70) & 64) != 0; })) << index;
  }
}

TEST_F(VirtioVsock, AResetEndsConnectionsAndWritesOutWhatTheySent) {
  auto [reader, writer] = Pipe();
  auto [ours, theirs] = SocketPair();
  VsockOptions options = Options();
  options.ports.push_back({5, {}, std::move(writer)});
  options.ports.push_back({6, Dup(theirs), std::move(theirs)});
  Boot(std::move(options));
  Connect(1, 5);
  Expect(kOpShutdown, 1, 5);
  const std::string bytes = Pattern(150000);
  for (size_t at = 0; at < bytes.size(); at += 50000) Send(kOpRw, 1, 5, bytes.substr(at, 50000));
  Settle();
  Write(0x70, 0);
  ASSERT_EQ(Read(0x70), 0u);
  EXPECT_EQ(ReadBytes(reader.get(), 200000), bytes);
  EXPECT_TRUE(Eventually([this] { return drained_ == 5; }));
  // A second life of the driver.
  ASSERT_TRUE(Start());
  PostReceive(16);
  Connect(1, 6);
  Send(kOpRw, 1, 6, "again");
  EXPECT_EQ(ReadBytes(ours.get(), 5), "again");
}

// --- Kinds of host fds ---

TEST_F(VirtioVsock, SharedDescriptionsStayBlocking) {
  auto [stdin_reader, stdin_writer] = Pipe();
  auto [stdout_reader, stdout_writer] = Pipe();
  auto [ours, theirs] = SocketPair();
  const UniqueFd in = Dup(stdin_reader);
  const UniqueFd out = Dup(stdout_writer);
  const UniqueFd socket = Dup(theirs);
  VsockOptions options = Options();
  options.ports.push_back({1, std::move(stdin_reader), std::move(stdout_writer)});
  options.ports.push_back({2, Dup(theirs), std::move(theirs)});
  Boot(std::move(options));
  Connect(1, 1);
  Connect(1, 2);
  WriteBytes(stdin_writer.get(), "a");
  Expect(kOpRw, 1, 1);
  for (const UniqueFd* fd : {&in, &out, &socket}) {
    EXPECT_EQ(::fcntl(fd->get(), F_GETFL) & O_NONBLOCK, 0);
  }
}

TEST_F(VirtioVsock, RegularFilesAndDevNullWork) {
  char path[] = "/tmp/clearvm-vsock-XXXXXX";
  UniqueFd file(::mkstemp(path));
  const std::string content = Pattern(300000);
  WriteBytes(file.get(), content);
  ASSERT_EQ(::lseek(file.get(), 0, SEEK_SET), 0);
  char out_path[] = "/tmp/clearvm-vsock-XXXXXX";
  UniqueFd out_file(::mkstemp(out_path));
  VsockOptions options = Options();
  options.ports.push_back({1, std::move(file), Dup(out_file)});
  options.ports.push_back({2, UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)),
                           UniqueFd(::open("/dev/null", O_WRONLY | O_CLOEXEC))});
  Boot(std::move(options));
  Connect(1, 1);
  EXPECT_EQ(ReceiveBytes(1, 1, content.size()), content);
  Packet end = Receive();
  while (end.header.op == kOpCreditRequest) end = Receive();
  EXPECT_EQ(end.header.op, kOpShutdown);
  Send(kOpRw, 1, 1, content.substr(0, 60000));
  Send(kOpShutdown, 1, 1, "", kShutdownBoth);
  Expect(kOpRst, 1, 1);
  EXPECT_EQ(drained_, 1u);
  std::string copy(60000, 0);
  EXPECT_EQ(::pread(out_file.get(), copy.data(), copy.size(), 0), 60000);
  EXPECT_EQ(copy, content.substr(0, 60000));
  Connect(2, 2);
  EXPECT_EQ(Expect(kOpShutdown, 2, 2).header.flags, kShutdownSend);
  for (int i = 0; i < 100; i++) Send(kOpRw, 2, 2, Pattern(60000));
  Settle();
  ::unlink(path);
  ::unlink(out_path);
}

TEST_F(VirtioVsock, TerminalsWorkFromBothSides) {
  int master;
  int slave;
  termios raw{};
  ::cfmakeraw(&raw);
  ASSERT_EQ(::openpty(&master, &slave, nullptr, &raw, nullptr), 0);
  const UniqueFd keep_slave(::dup(slave));
  const UniqueFd keep_master(::dup(master));
  VsockOptions options = Options();
  options.ports.push_back({1, UniqueFd(slave), UniqueFd(::dup(slave))});
  options.ports.push_back({2, UniqueFd(master), UniqueFd(::dup(master))});
  Boot(std::move(options));
  Connect(1, 1);
  Connect(2, 2);
  // What one port writes, the other reads: slave to master and back, more than the terminal's
  // buffer at a time.
  const std::string bytes = Pattern(20000);
  Send(kOpRw, 1, 1, bytes);
  EXPECT_EQ(ReceiveBytes(2, 2, bytes.size()), bytes);
  Send(kOpRw, 2, 2, bytes);
  EXPECT_EQ(ReceiveBytes(1, 1, bytes.size()), bytes);
  EXPECT_EQ(::fcntl(keep_slave.get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_EQ(::fcntl(keep_master.get(), F_GETFL) & O_NONBLOCK, 0);
}

// --- Streams ---

TEST_F(VirtioVsock, StreamsMuchFromTheHostInFullPackets) {
  auto [reader, writer] = Pipe();
  VsockOptions options = Options();
  options.ports.push_back({5, std::move(reader), {}});
  Boot(std::move(options));
  Connect(1, 5);
  const std::string bytes = Pattern(16 << 20);
  std::thread feeder([&, end = std::move(writer)] { WriteBytes(end.get(), bytes); });
  const uint16_t before = queue(0).next_avail();
  const std::string got = ReceiveBytes(1, 5, bytes.size());
  const size_t packets = static_cast<uint16_t>(queue(0).next_avail() - before);
  feeder.join();
  EXPECT_TRUE(got == bytes);
  // 4052 bytes fit into a packet: mostly they are full.
  EXPECT_LE(packets, bytes.size() / 4052 * 3 / 2);
}

TEST_F(VirtioVsock, StreamsMuchToTheHost) {
  auto [reader, writer] = Pipe();
  VsockOptions options = Options();
  options.ports.push_back({5, {}, std::move(writer)});
  Boot(std::move(options));
  Connect(1, 5);
  Expect(kOpShutdown, 1, 5);
  const std::string bytes = Pattern(16 << 20);
  std::string got;
  std::thread drain([&, fd = reader.get()] { got = ReadBytes(fd, bytes.size() + 1); });
  uint32_t sent = 0;
  uint32_t forwarded = 0;
  while (sent < bytes.size() && !HasFailure()) {
    while (auto packet = TryReceive()) forwarded = packet->header.fwd_cnt;
    if (sent + 65536 - forwarded > kWindow) continue;
    Send(kOpRw, 1, 5, bytes.substr(sent, 65536));
    sent += 65536;
  }
  Send(kOpShutdown, 1, 5, "", kShutdownSend);
  drain.join();
  EXPECT_TRUE(got == bytes);
  EXPECT_TRUE(Eventually([this] { return drained_ == 5; }));
}

TEST(VirtioVsockConfig, IsChecked) {
  auto loop = std::move(EventLoop::Create()).value();
  const auto refused = [&](auto change) {
    VsockOptions options;
    change(options);
    const auto result = CreateVsock(std::move(options), loop.get());
    return !result.ok() && result.error().code == "ERR_VSOCK_CONFIG";
  };
  EXPECT_TRUE(refused([](VsockOptions& o) { o.guest_cid = 2; }));
  EXPECT_TRUE(refused([](VsockOptions& o) { o.guest_cid = UINT32_MAX; }));
  EXPECT_TRUE(refused([](VsockOptions& o) { o.unix_path = std::string(100, 'x'); }));
  EXPECT_TRUE(refused([](VsockOptions& o) {
    o.ports.push_back({1, {}, {}});
    o.ports.push_back({1, {}, {}});
  }));
  EXPECT_TRUE(refused([](VsockOptions& o) { o.ports.push_back({1, UniqueFd(12345), {}}); }));
  EXPECT_FALSE(refused([](VsockOptions& o) { o.unix_path = std::string(96, 'x'); }));
}

// Ports that come and go while the device runs.
class VirtioVsockPorts : public VirtioVsock {
 protected:
  void SetUp() override {
    VirtioVsock::SetUp();
    Boot(Options());
  }
  // Port `port`, for the guest's ports below 1024; our end of its stream.
  UniqueFd Add(uint32_t port) {
    auto [ours, theirs] = SocketPair();
    HostFd in = std::move(HostFd::AdoptForeign(Dup(theirs), HostFd::Direction::kRead, -1)).value();
    HostFd out =
        std::move(HostFd::AdoptForeign(std::move(theirs), HostFd::Direction::kWrite, -1)).value();
    loop()->Call([&, port] { vsock_->AddPort(port, 1024, std::move(in), std::move(out)); });
    return std::move(ours);
  }
  void Change(uint32_t port, Vsock::PortChange change) {
    loop()->Call([&] { vsock_->ChangePort(port, change); });
  }
};

TEST_F(VirtioVsockPorts, ServeOneConnectionFromAPrivilegedPort) {
  Send(kOpRequest, 5, 2000);
  Expect(kOpRst, 5, 2000);
  const UniqueFd host = Add(2000);
  Send(kOpRequest, 1024, 2000);
  Expect(kOpRst, 1024, 2000);
  Connect(1023, 2000);
  Send(kOpRw, 1023, 2000, "hello");
  EXPECT_EQ(ReadBytes(host.get(), 5), "hello");
  WriteBytes(host.get(), "back");
  EXPECT_EQ(Expect(kOpRw, 1023, 2000).payload, "back");
  Send(kOpRequest, 1022, 2000);
  Expect(kOpRst, 1022, 2000);
}

TEST_F(VirtioVsockPorts, AreDrainedWhenNobodyHasConnected) {
  const UniqueFd host = Add(2000);
  Change(2000, Vsock::PortChange::kRelease);
  EXPECT_EQ(drained_, 2000u);
  EXPECT_TRUE(HasEnd(host.get()));
  Send(kOpRequest, 1, 2000);
  Expect(kOpRst, 1, 2000);
}

TEST_F(VirtioVsockPorts, KeepTheirConnectionsWhenReleased) {
  const UniqueFd host = Add(2000);
  Connect(1, 2000);
  Change(2000, Vsock::PortChange::kRelease);
  Send(kOpRw, 1, 2000, "last words");
  Send(kOpShutdown, 1, 2000, "", kShutdownBoth);
  Expect(kOpRst, 1, 2000);
  EXPECT_EQ(ReadBytes(host.get(), 10), "last words");
  EXPECT_TRUE(HasEnd(host.get()));
  EXPECT_TRUE(Eventually([this] { return drained_ == 2000u; }));
}

TEST_F(VirtioVsockPorts, CutTheirConnectionsWhenReset) {
  const UniqueFd host = Add(2000);
  Connect(1, 2000);
  // More than the host's socket takes: the rest lies in the device.
  const std::string bytes = Pattern(60'000);
  for (int i = 0; i < 10; i++) {
    VsockHeader header = Header(kOpRw, 1, 2000);
    header.len = static_cast<uint32_t>(bytes.size());
    Send(header, bytes);
  }
  Settle();
  Change(2000, Vsock::PortChange::kReset);
  EXPECT_EQ(drained_, 2000u);
  for (Packet packet = Receive(); packet.header.op != kOpRst; packet = Receive()) {
    ASSERT_EQ(packet.header.op, kOpCreditUpdate);
  }
  ReadBytes(host.get(), 10 * bytes.size());
  EXPECT_TRUE(HasEnd(host.get()));
}

TEST_F(VirtioVsockPorts, SwallowWhatTheGuestSendsWhenDiscarded) {
  const UniqueFd host = Add(2000);
  Connect(1, 2000);
  const UniqueFd early = Add(2004);
  for (uint32_t port : {2000u, 2004u}) Change(port, Vsock::PortChange::kDiscard);
  EXPECT_TRUE(HasEnd(host.get()) && HasEnd(early.get()));
  Send(kOpRequest, 2, 2004);
  Expect(kOpResponse, 2, 2004);
  Expect(kOpShutdown, 2, 2004);
  const std::string bytes = Pattern(60'000);
  for (uint32_t sent = 0; sent < 4 * kWindow; sent += 60'000) {
    for (uint32_t guest : {1u, 2u}) {
      VsockHeader header = Header(kOpRw, guest, guest == 1 ? 2000 : 2004);
      header.len = static_cast<uint32_t>(bytes.size());
      Send(header, bytes);
      EXPECT_EQ(Receive().header.op, kOpCreditUpdate);
    }
  }
  EXPECT_EQ(drained_, 0u);
}

}  // namespace
}  // namespace clearvm::virtio::testing
