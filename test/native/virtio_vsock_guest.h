// The guest's end of a virtio-vsock device, for its tests.
#ifndef CLEARVM_TEST_NATIVE_VIRTIO_VSOCK_GUEST_H_
#define CLEARVM_TEST_NATIVE_VIRTIO_VSOCK_GUEST_H_

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <deque>

#include "native/virtio/vsock.h"
#include "native/virtio/vsock_packet.h"
#include "test/native/virtio_driver.h"

namespace clearvm::virtio::testing {

struct Packet {
  VsockHeader header;
  std::string payload;
};

inline std::pair<UniqueFd, UniqueFd> Pipe() {
  int fds[2];
  EXPECT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}
inline std::pair<UniqueFd, UniqueFd> SocketPair() {
  int fds[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}
inline UniqueFd Dup(const UniqueFd& fd) { return UniqueFd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 3)); }

// Reads `size` bytes, or less at end-of-file. Blocks.
inline std::string ReadBytes(int fd, size_t size) {
  std::string bytes(size, 0);
  size_t have = 0;
  while (have < size) {
    const ssize_t got = ::read(fd, bytes.data() + have, size - have);
    if (got <= 0) break;
    have += static_cast<size_t>(got);
  }
  bytes.resize(have);
  return bytes;
}
inline void WriteBytes(int fd, const std::string& bytes) {
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t wrote = ::write(fd, bytes.data() + done, bytes.size() - done);
    ASSERT_GT(wrote, 0);
    done += static_cast<size_t>(wrote);
  }
}
// Bytes that tell their own position.
inline std::string Pattern(size_t size, uint32_t seed = 0) {
  std::string bytes(size, 0);
  for (size_t i = 0; i < size; i++) {
    bytes[i] = static_cast<char>((i + seed) * 2654435761u >> 24);
  }
  return bytes;
}

class VsockGuest : public DeviceFixture {
 public:
  static constexpr uint64_t kCid = 7;
  static constexpr uint64_t kReceiveBuffers = 0x40'0000;
  static constexpr uint64_t kSendBuffers = 0x80'0000;
  static constexpr uint32_t kReceiveSize = 4096;
  static constexpr uint64_t kSendSlot = 0x1'1000;

  // Starts the device with `buffers` receive buffers.
  void Boot(VsockOptions options, size_t buffers = 64) {
    options.guest_cid = kCid;
    auto device = CreateVsock(std::move(options), loop());
    ASSERT_TRUE(device.ok()) << device.error().message;
    vsock_ = device.value().get();
    Attach(std::move(device).value());
    StartLoop();
    ASSERT_TRUE(Start());
    PostReceive(buffers);
  }
  void PostReceive(size_t buffers) {
    const uint16_t before = queue(0).next_avail();
    for (size_t i = 0; i < buffers; i++) {
      const uint64_t at = kReceiveBuffers + (posted_++ % 64) * kReceiveSize;
      // As Linux 6.1 does: the header and the bytes apart.
      heads_[queue(0).Add({{at, 44, true}, {at + 44, kReceiveSize - 44, true}}, Table(at))] = at;
    }
    KickIfNeeded(0, before);
  }

  VsockHeader Header(VsockOp op, uint32_t guest_port, uint32_t host_port) {
    VsockHeader header{};
    header.src_cid = kCid;
    header.dst_cid = kHostCid;
    header.src_port = guest_port;
    header.dst_port = host_port;
    header.type = kVsockStream;
    header.op = op;
    header.buf_alloc = buf_alloc_;
    header.fwd_cnt = fwd_cnt_[guest_port];
    return header;
  }
  // Queues a packet, without waiting for it to be taken. False: no room in the queue.
  bool TrySend(const VsockHeader& header, const std::string& payload = "", bool kick = true) {
    while (queue(1).Take()) continue;
    if (queue(1).free_descriptors() < 2) return false;
    const uint64_t at = kSendBuffers + (sent_++ % 64) * kSendSlot;
    std::memcpy(At(at, 44), &header, 44);
    const uint16_t before = queue(1).next_avail();
    if (payload.empty()) {
      queue(1).Add({{at, 44, false}});
    } else {
      std::memcpy(At(at + 44, payload.size()), payload.data(), payload.size());
      queue(1).Add({{at, 44, false}, {at + 44, static_cast<uint32_t>(payload.size()), false}});
    }
    if (kick) KickIfNeeded(1, before);
    return true;
  }
  void Send(VsockHeader header, const std::string& payload = "") {
    ASSERT_TRUE(Eventually([&] { return TrySend(header, payload); }));
  }
  void Send(VsockOp op, uint32_t guest_port, uint32_t host_port, const std::string& payload = "",
            uint32_t flags = 0) {
    VsockHeader header = Header(op, guest_port, host_port);
    header.len = static_cast<uint32_t>(payload.size());
    header.flags = flags;
    Send(header, payload);
  }
  // Waits until the device has taken all that was sent.
  void Settle() {
    ASSERT_TRUE(Eventually([this] { return queue(1).UsedIndex() == queue(1).next_avail(); }));
  }

  // The next packet, if there is one; its buffer goes back to the device.
  std::optional<Packet> TryReceive(bool repost = true) {
    const auto used = queue(0).Take();
    if (!used) return std::nullopt;
    const uint64_t at = heads_[used->first];
    Packet packet;
    EXPECT_GE(used->second, 44u);
    std::memcpy(&packet.header, At(at, 44), 44);
    EXPECT_EQ(packet.header.len, used->second - 44);
    EXPECT_EQ(packet.header.dst_cid, kCid);
    packet.payload.assign(reinterpret_cast<char*>(At(at + 44, 1)), packet.header.len);
    fwd_cnt_[packet.header.dst_port] += packet.header.len;
    if (repost) PostReceive(1);
    return packet;
  }
  Packet Receive() {
    std::optional<Packet> packet;
    EXPECT_TRUE(Eventually([&] { return (packet = TryReceive()).has_value(); }))
        << "no packet came";
    return packet.value_or(Packet{});
  }
  Packet Expect(VsockOp op, uint32_t guest_port, uint32_t host_port) {
    Packet packet = Receive();
    EXPECT_EQ(packet.header.op, op);
    EXPECT_EQ(packet.header.dst_port, guest_port);
    EXPECT_EQ(packet.header.src_port, host_port);
    EXPECT_EQ(packet.header.src_cid, kHostCid);
    EXPECT_EQ(packet.header.type, kVsockStream);
    return packet;
  }
  // Nothing comes, after all that is on its way was handled.
  void ExpectSilence() {
    for (int i = 0; i < 3; i++) Drained();
    EXPECT_FALSE(TryReceive().has_value());
  }
  void Connect(uint32_t guest_port, uint32_t host_port) {
    Send(kOpRequest, guest_port, host_port);
    Expect(kOpResponse, guest_port, host_port);
  }
  // Receives RW packets until `size` bytes have come. Sends credit updates as they are consumed.
  std::string ReceiveBytes(uint32_t guest_port, uint32_t host_port, size_t size) {
    std::string bytes;
    uint32_t told = fwd_cnt_[guest_port];
    while (bytes.size() < size && !::testing::Test::HasFailure()) {
      Packet packet = Receive();
      if (packet.header.op == kOpCreditRequest) {
        Send(kOpCreditUpdate, guest_port, host_port);
        continue;
      }
      if (packet.header.op == kOpCreditUpdate) continue;
      EXPECT_EQ(packet.header.op, kOpRw);
      bytes += packet.payload;
      if (fwd_cnt_[guest_port] - told >= buf_alloc_ / 2) {
        told = fwd_cnt_[guest_port];
        Send(kOpCreditUpdate, guest_port, host_port);
      }
    }
    return bytes;
  }

  Vsock* vsock_ = nullptr;
  uint32_t buf_alloc_ = 256 * 1024;
  std::map<uint32_t, uint32_t> fwd_cnt_;  // by guest port

 private:
  static uint64_t Table(uint64_t buffer) {
    return 0x38'0000 + (buffer - kReceiveBuffers) / kReceiveSize * 64;
  }
  // Waits until the loop has gone once around.
  void Drained() {
    std::atomic<bool> done{false};
    loop()->Post([&] { done = true; });
    ASSERT_TRUE(Eventually([&] { return done.load(); }));
  }

  uint64_t posted_ = 0;
  uint64_t sent_ = 0;
  std::map<uint16_t, uint64_t> heads_;
};

}  // namespace clearvm::virtio::testing

#endif  // CLEARVM_TEST_NATIVE_VIRTIO_VSOCK_GUEST_H_
