// Plays a hostile guest, and a careless host, against the vsock device behind its transport. The
// input is a list of actions, one byte each with its arguments behind it; the device's loop goes
// once around between two.
#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <set>
#include <vector>

#include "native/virtio/mmio.h"
#include "native/virtio/vsock.h"
#include "native/virtio/vsock_packet.h"

using namespace clearvm;
using namespace clearvm::virtio;

namespace {

constexpr uint64_t kRam = 64 * 4096;
constexpr uint64_t kCid = 3;
constexpr uint64_t kRings[] = {0x1000, 0x4000,
                               0x7000};  // descriptors, avail + 0x1000, used + 0x2000
constexpr uint64_t kBuffers = 0x1'0000;
constexpr uint16_t kSize = 16;

class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return size_ == 0; }
  uint8_t Byte() {
    if (size_ == 0) return 0;
    size_--;
    return *data_++;
  }
  uint32_t Word() {
    return Byte() | Byte() << 8 | Byte() << 16 | static_cast<uint32_t>(Byte()) << 24;
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

class Session {
 public:
  Session(const kvm::GuestMemory* memory, Input input) : memory_(memory), input_(input) {
    loop_ = std::move(EventLoop::Create()).value();
    VsockOptions options;
    options.guest_cid = kCid;
    for (uint32_t port = 1; port <= 2; port++) {
      int fds[2];
      if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) != 0)
        __builtin_trap();
      hosts_.emplace_back(fds[0]);
      options.ports.push_back({port, UniqueFd(fds[1]), UniqueFd(::dup(fds[1]))});
    }
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC | O_NONBLOCK) != 0) __builtin_trap();
    hosts_.emplace_back(fds[0]);
    options.ports.push_back({3, {}, UniqueFd(fds[1])});
    options.ports.push_back({4, UniqueFd(::open("/dev/zero", O_RDONLY | O_CLOEXEC)),
                             UniqueFd(::open("/dev/null", O_WRONLY | O_CLOEXEC))});
    // An autobound abstract name: nothing is left in any directory.
    options.unix_listener = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    ::bind(options.unix_listener.get(), reinterpret_cast<sockaddr*>(&address),
           sizeof address.sun_family);
    ::listen(options.unix_listener.get(), 16);
    address_size_ = sizeof address_;
    ::getsockname(options.unix_listener.get(), reinterpret_cast<sockaddr*>(&address_),
                  &address_size_);
    auto device = std::move(CreateVsock(std::move(options), loop_.get())).value();
    vsock_ = device.get();
    transport_ =
        std::move(MmioTransport::Create(std::move(device), memory_, loop_.get(),
                                        UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK))))
            .value();
    Start();
  }

  void Run() {
    loop_->Post([this] { Step(); });
    (void)loop_->Run();
  }

 private:
  void Register(uint64_t offset, uint32_t value) {
    transport_->Write(offset, {reinterpret_cast<const uint8_t*>(&value), 4});
  }
  void Start() {
    std::memset(memory_->Translate(0, kBuffers), 0, kBuffers);
    std::memset(next_, 0, sizeof next_);
    Register(0x70, 3);
    Register(0x24, 0);
    Register(0x20, 3u << 28);
    Register(0x24, 1);
    Register(0x20, 1);
    Register(0x70, 11);
    for (uint32_t i = 0; i < 3; i++) {
      Register(0x30, i);
      Register(0x38, i == 2 ? 8 : kSize);
      Register(0x80, static_cast<uint32_t>(kRings[i]));
      Register(0x90, static_cast<uint32_t>(kRings[i] + 0x1000));
      Register(0xa0, static_cast<uint32_t>(kRings[i] + 0x2000));
      Register(0x44, 1);
    }
    Register(0x70, 15);
  }
  // One descriptor, made available.
  void Offer(uint32_t queue, uint64_t address, uint32_t length, uint16_t flags) {
    const uint16_t index = next_[queue] % kSize;
    uint8_t* descriptor = memory_->Translate(kRings[queue] + 16u * index, 16);
    std::memcpy(descriptor, &address, 8);
    std::memcpy(descriptor + 8, &length, 4);
    std::memcpy(descriptor + 12, &flags, 2);
    uint8_t* avail = memory_->Translate(kRings[queue] + 0x1000, 4 + 2 * kSize);
    std::memcpy(avail + 4 + 2 * index, &index, 2);
    next_[queue]++;
    std::memcpy(avail + 2, &next_[queue], 2);
    Register(0x50, queue);
  }
  void SendPacket() {
    VsockHeader header{};
    const uint8_t kind = input_.Byte();
    header.src_cid = (kind & 1) != 0 && input_.Byte() == 0 ? input_.Word() : kCid;
    header.dst_cid = (kind & 2) != 0 && input_.Byte() == 0 ? input_.Word() : kHostCid;
    const uint8_t ports = input_.Byte();
    header.src_port = ports >> 4;
    header.dst_port = (kind & 4) != 0 ? kPeer + (ports & 3) : (ports & 7);
    header.op = input_.Byte() % 9;
    header.type = (kind & 8) != 0 ? input_.Byte() : kVsockStream;
    header.flags = input_.Byte();
    header.len = (kind & 16) != 0 ? input_.Word() : input_.Byte() * 256u;
    header.buf_alloc = (kind & 32) != 0 ? input_.Word() : 65536;
    header.fwd_cnt = (kind & 64) != 0 ? input_.Word() : input_.Byte();
    const uint64_t at = kBuffers + (next_[1] % kSize) * 0x1000;
    std::memcpy(memory_->Translate(at, sizeof header), &header, sizeof header);
    const uint32_t room = (kind & 128) != 0 ? input_.Byte() : 44 + std::min(header.len, 65536u);
    Offer(1, at, room, 0);
  }
  void Step() {
    if (input_.empty()) return loop_->Stop();
    switch (input_.Byte() % 10) {
      case 0:
      case 1:
        SendPacket();
        break;
      case 2:
        Offer(0, kBuffers + 0x20000 + (next_[0] % kSize) * 0x1000, 4096, 2);
        break;
      case 3:
        Offer(0, kBuffers + 0x20000 + input_.Byte() * 16u, input_.Byte() * 8u, input_.Byte());
        break;
      case 4: {  // scribble on the rings
        const uint32_t where = input_.Word() % (kBuffers - 4);
        const uint32_t what = input_.Word();
        std::memcpy(memory_->Translate(where, 4), &what, 4);
        break;
      }
      case 5:
        Register(0x50, input_.Byte() % 4);
        break;
      case 6: {
        static const uint8_t bytes[4096] = {};
        [[maybe_unused]] ssize_t wrote = ::write(Host(), bytes, input_.Byte() * 16u);
        break;
      }
      case 7: {
        static uint8_t bytes[65536];
        [[maybe_unused]] ssize_t got = ::read(Host(), bytes, sizeof bytes);
        break;
      }
      case 8: {
        const uint8_t how = input_.Byte();
        if (how < 64) {
          hosts_[how % hosts_.size()].reset();
        } else if (how < 128) {
          ::shutdown(Host(), how % 3);
        } else if (how < 248) {
          Client(how);
        } else {
          ChangePort(how);
        }
        break;
      }
      case 9:
        // Never 0: a reset waits for the loop, which is this very thread.
        Register(input_.Byte() & 0xfcu, input_.Word() | 1);
        break;
    }
    loop_->Post([this] { Step(); });
  }
  int Host() { return hosts_[input_.Byte() % hosts_.size()].get(); }
  void Client(uint8_t how) {
    UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (::connect(client.get(), reinterpret_cast<const sockaddr*>(&address_), address_size_) != 0)
      return;
    const std::string greeting = "CONNECT " + std::to_string(how % 16) + "\n";
    [[maybe_unused]] ssize_t wrote =
        ::write(client.get(), greeting.data(), how < 240 ? greeting.size() : greeting.size() - 3);
    if (hosts_.size() < 64) hosts_.push_back(std::move(client));
  }

  // Ports that come and go.
  void ChangePort(uint8_t how) {
    const uint32_t port = 5 + input_.Byte() % 3;
    if (how % 4 != 0) {
      if (vsock_ports_.contains(port)) {
        vsock_->ChangePort(port, static_cast<Vsock::PortChange>(how % 4 - 1));
      }
      if (how % 4 != 3) vsock_ports_.erase(port);
      return;
    }
    int fds[2];
    if (!vsock_ports_.insert(port).second || hosts_.size() >= 64 ||
        ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) != 0) {
      return;
    }
    hosts_.emplace_back(fds[0]);
    const auto adopt = [](int fd, HostFd::Direction direction) {
      return std::move(HostFd::AdoptForeign(UniqueFd(fd), direction, -1)).value();
    };
    vsock_->AddPort(port, 8, adopt(::dup(fds[1]), HostFd::Direction::kRead),
                    adopt(fds[1], HostFd::Direction::kWrite));
  }

  static constexpr uint32_t kPeer = 1u << 30;  // where host-initiated connections come from
  const kvm::GuestMemory* memory_;
  Input input_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<MmioTransport> transport_;
  Vsock* vsock_ = nullptr;
  std::set<uint32_t> vsock_ports_;
  std::vector<UniqueFd> hosts_;
  sockaddr_un address_{};
  socklen_t address_size_ = 0;
  uint16_t next_[3] = {};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const kvm::GuestMemory* const memory = [] {
    ::signal(SIGPIPE, SIG_IGN);
    return new kvm::GuestMemory(
        std::move(kvm::GuestMemory::Create(kRam, kvm::Backing::kAnonymous)).value());
  }();
  Session(memory, Input(data, size)).Run();
  return 0;
}
