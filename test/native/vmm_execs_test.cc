// EXEC on the VMM's listening socket, with init and the vsock device played by the test: what
// clients and init may send, and what they must not.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "native/vmm/session.h"

namespace clearvm::vmm {
namespace {

using PortChange = virtio::Vsock::PortChange;

struct Frame {
  uint16_t type = 0;
  uint32_t process = 0;
  std::string payload;
};

template <typename T>
std::string Bytes(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

std::string Encode(uint16_t type, uint32_t process, const std::string& payload) {
  return Bytes(clearvm_frame{static_cast<uint32_t>(payload.size()), type, 0, process}) + payload;
}

// A partner's end of a stream of frames. Blocking.
class Peer {
 public:
  explicit Peer(int fd) : fd_(fd) {}

  void Write(const std::string& bytes, const std::vector<int>& fds = {}) {
    alignas(cmsghdr) char control[CMSG_SPACE(32 * sizeof(int))] = {};
    iovec part{const_cast<char*>(bytes.data()), bytes.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (!fds.empty()) {
      message.msg_control = control;
      message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
      cmsghdr* entry = CMSG_FIRSTHDR(&message);
      entry->cmsg_level = SOL_SOCKET;
      entry->cmsg_type = SCM_RIGHTS;
      entry->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
      std::memcpy(CMSG_DATA(entry), fds.data(), fds.size() * sizeof(int));
    }
    ASSERT_EQ(::sendmsg(fd_.get(), &message, MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }
  // False: it does not take any more.
  bool TryWrite(const std::string& bytes) {
    pollfd poll{fd_.get(), POLLOUT, 0};
    return ::poll(&poll, 1, 500) == 1 &&
           ::send(fd_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL) > 0;
  }
  void Send(uint16_t type, uint32_t process, const std::string& payload = "",
            const std::vector<int>& fds = {}) {
    Write(Encode(type, process, payload), fds);
  }
  // The next frame; type 0 at end-of-file, or when none comes.
  Frame Receive() {
    clearvm_frame header;
    if (!Take(&header, sizeof header)) return {};
    Frame frame{header.type, header.process, std::string(header.length, 0)};
    return Take(frame.payload.data(), header.length) ? frame : Frame{};
  }
  // Receives a REPLY to `request`; its errno.
  uint32_t Reply(uint32_t request) {
    const Frame frame = Receive();
    EXPECT_EQ(frame.type, CLEARVM_CONTROL_REPLY);
    EXPECT_EQ(frame.process, request);
    uint32_t error = ~0u;
    if (frame.payload.size() >= 4) std::memcpy(&error, frame.payload.data(), 4);
    return error;
  }
  bool AtEnd() {
    char byte;
    return Wait() && ::recv(fd_.get(), &byte, 1, 0) <= 0;
  }
  bool Silent() {
    pollfd poll{fd_.get(), POLLIN, 0};
    return ::poll(&poll, 1, 50) == 0;
  }
  void Close() { fd_.reset(); }

 private:
  bool Wait() {
    pollfd poll{fd_.get(), POLLIN, 0};
    return ::poll(&poll, 1, 10'000) == 1;
  }
  bool Take(void* to, size_t size) {
    for (size_t at = 0; at < size;) {
      if (!Wait()) return false;
      const ssize_t got = ::recv(fd_.get(), static_cast<char*>(to) + at, size - at, 0);
      if (got <= 0) return false;
      at += static_cast<size_t>(got);
    }
    return true;
  }

  UniqueFd fd_;
};

// Ports that nobody ever connects to by themselves.
class FakeStreams final : public Streams {
 public:
  Result<void> Open(uint32_t port, UniqueFd in, UniqueFd out) override {
    if (refuse) return Error{"ERR_TEST", 0, "", ""};
    open[port] = {in.valid(), out.valid()};
    return {};
  }
  void Change(uint32_t port, PortChange change) override {
    if (open.erase(port) == 0) return;
    changes.emplace_back(port, change);
    if (change != PortChange::kDiscard && !stalled) session->PostDrained(port);
  }

  std::map<uint32_t, std::pair<bool, bool>> open;
  std::vector<std::pair<uint32_t, PortChange>> changes;
  bool refuse = false;
  bool stalled = false;  // the reader of all outputs
  Session* session = nullptr;
};

class VmmExecs : public ::testing::Test {
 protected:
  void SetUp() override {
    loop_ = std::move(EventLoop::Create()).value();
    session_ = std::make_unique<Session>(loop_.get(), &timeline_, &log_);
    streams_.session = session_.get();
    address_.sun_family = AF_UNIX;  // a name that the kernel makes up
    UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address_), sizeof(sa_family_t)),
              0);
    length_ = sizeof address_;
    ASSERT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address_), &length_), 0);
    ASSERT_EQ(::listen(listener.get(), 256), 0);
    int pair[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    init_ = std::make_unique<Peer>(pair[1]);
    ASSERT_TRUE(session_->AttachAgent(UniqueFd(pair[0])).ok());
    ASSERT_TRUE(session_->AttachListener(std::move(listener), &streams_).ok());
    loop_thread_ = std::thread([this] { EXPECT_TRUE(loop_->Run().ok()); });
    init_->Send(CLEARVM_AGENT_READY, 0, Bytes(uint32_t{CLEARVM_AGENT_VERSION}));
    init_->Send(CLEARVM_AGENT_STARTED, 0);
    Settle();
  }
  void TearDown() override {
    loop_->Stop();
    loop_thread_.join();
  }
  // Waits until what was sent by now has been handled, and what that has posted.
  void Settle() {
    for (int i = 0; i < 5; i++) loop_->Call([] {});
  }
  void OnLoop(const std::function<void()>& act) { loop_->Call(act); }

  Peer Connect() {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&address_), length_), 0);
    return Peer(fd);
  }
  static std::string ExecPayload(uint32_t flags = 0) {
    return Bytes(clearvm_exec{flags, 0}) + "the spec";
  }
  // Has a client start a process; the number that init got.
  uint32_t Start(Peer& client, uint32_t request, bool terminal = false) {
    client.Send(CLEARVM_CONTROL_EXEC, request, ExecPayload(terminal ? CLEARVM_EXEC_TERMINAL : 0u),
                std::vector<int>(terminal ? 2 : 3, null_.get()));
    EXPECT_EQ(client.Reply(request), 0u);
    const Frame frame = init_->Receive();
    EXPECT_EQ(frame.type, CLEARVM_AGENT_EXEC);
    EXPECT_EQ(frame.payload, "the spec");
    return frame.process;
  }
  uint32_t Run(Peer& client, uint32_t request, bool terminal = false) {
    const uint32_t number = Start(client, request, terminal);
    init_->Send(CLEARVM_AGENT_STARTED, number);
    const Frame started = client.Receive();
    EXPECT_EQ(started.type, CLEARVM_CONTROL_STARTED);
    EXPECT_EQ(started.process, request);
    return number;
  }
  void ExpectExit(Peer& client, uint32_t request, uint32_t code, uint32_t signal) {
    const Frame exit = client.Receive();
    EXPECT_EQ(exit.type, CLEARVM_CONTROL_EXIT);
    EXPECT_EQ(exit.process, request);
    EXPECT_EQ(exit.payload, Bytes(code) + Bytes(signal));
  }
  static uint32_t Port(uint32_t number, uint32_t port) { return port + 4 * number; }

  Timeline timeline_;
  KernelLog log_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<Session> session_;
  FakeStreams streams_;
  std::unique_ptr<Peer> init_;
  sockaddr_un address_{};
  socklen_t length_ = 0;
  std::thread loop_thread_;
  UniqueFd null_{::open("/dev/null", O_RDWR | O_CLOEXEC)};
};

TEST_F(VmmExecs, TellsOfStartAndExitWithTheRequestsNumber) {
  Peer client = Connect();
  const uint32_t number = Run(client, 77);
  EXPECT_GT(number, 0u);
  OnLoop([&] {
    using Ends = std::pair<bool, bool>;
    const std::map<uint32_t, Ends> expected = {{Port(number, CLEARVM_PORT_STDIN), {true, false}},
                                               {Port(number, CLEARVM_PORT_STDOUT), {false, true}},
                                               {Port(number, CLEARVM_PORT_STDERR), {false, true}}};
    EXPECT_EQ(streams_.open, expected);
  });
  client.Send(CLEARVM_CONTROL_SIGNAL, 78, Bytes(15u) + Bytes(77u));
  EXPECT_EQ(client.Reply(78), 0u);
  Frame frame = init_->Receive();
  EXPECT_EQ(frame.type, CLEARVM_AGENT_SIGNAL);
  EXPECT_EQ(frame.process, number);
  EXPECT_EQ(frame.payload, Bytes(15u));
  client.Send(CLEARVM_CONTROL_SIGNAL, 79, Bytes(10u));
  EXPECT_EQ(client.Reply(79), 0u);
  EXPECT_EQ(init_->Receive().process, 0u) << "the container's own process";
  init_->Send(CLEARVM_AGENT_EXIT, number, Bytes(3u) + Bytes(0u));
  ExpectExit(client, 77, 3, 0);
  client.Send(CLEARVM_CONTROL_SIGNAL, 80, Bytes(15u) + Bytes(77u));
  EXPECT_EQ(client.Reply(80), static_cast<uint32_t>(ESRCH));
  EXPECT_NE(Run(client, 77), number) << "the request's number is free, the process's is not";
}

TEST_F(VmmExecs, TellsOfTheExitAfterAllOutput) {
  Peer client = Connect();
  OnLoop([&] { streams_.stalled = true; });
  const uint32_t number = Run(client, 1);
  init_->Send(CLEARVM_AGENT_EXIT, number, Bytes(137u) + Bytes(9u));
  EXPECT_TRUE(client.Silent());
  session_->PostDrained(Port(number, CLEARVM_PORT_STDERR));
  EXPECT_TRUE(client.Silent());
  session_->PostDrained(Port(number, CLEARVM_PORT_STDOUT));
  ExpectExit(client, 1, 137, 9);
}

TEST_F(VmmExecs, TellsWhyAProcessDoesNotStart) {
  Peer client = Connect();
  const uint32_t number = Start(client, 5);
  init_->Send(CLEARVM_AGENT_ERROR, number, Bytes(127u) + "not\x1b found");
  const Frame failure = client.Receive();
  EXPECT_EQ(failure.type, CLEARVM_CONTROL_FAILURE);
  EXPECT_EQ(failure.process, 5u);
  EXPECT_EQ(failure.payload,
            Bytes(uint32_t{CLEARVM_FAILURE_PROCESS}) + Bytes(127u) + Bytes(10u) + "not  found");
  OnLoop([&] { EXPECT_TRUE(streams_.open.empty()); });
}

TEST_F(VmmExecs, LeavesAProcessAloneWhoseClientGoes) {
  Peer client = Connect();
  const uint32_t number = Run(client, 1);
  client.Close();
  Settle();
  OnLoop([&] { EXPECT_EQ(streams_.open.size(), 3u); });
  init_->Send(CLEARVM_AGENT_EXIT, number, Bytes(0u) + Bytes(0u));
  Peer other = Connect();
  Run(other, 1);
}

TEST_F(VmmExecs, CutsTheTerminalOfAClientThatGoes) {
  Peer client = Connect();
  const uint32_t number = Run(client, 1, true);
  const uint32_t port = Port(number, CLEARVM_PORT_STDOUT);
  OnLoop([&] {
    EXPECT_EQ(streams_.open, (std::map<uint32_t, std::pair<bool, bool>>{{port, {true, true}}}));
  });
  client.Close();
  const Frame hangup = init_->Receive();
  EXPECT_EQ(hangup.type, CLEARVM_AGENT_HANGUP);
  EXPECT_EQ(hangup.process, number);
  OnLoop([&] { EXPECT_EQ(streams_.changes[0], (std::pair{port, PortChange::kReset})); });
}

TEST_F(VmmExecs, DetachesWithoutCutting) {
  Peer client = Connect();
  const uint32_t number = Run(client, 1, true);
  client.Send(CLEARVM_CONTROL_DETACH, 2, Bytes(1u));
  EXPECT_EQ(client.Reply(2), 0u);
  OnLoop([&] {
    ASSERT_EQ(streams_.changes.size(), 1u);
    EXPECT_EQ(streams_.changes[0].second, PortChange::kDiscard);
  });
  client.Send(CLEARVM_CONTROL_DETACH, 3, Bytes(1u));
  EXPECT_EQ(client.Reply(3), static_cast<uint32_t>(ESRCH));
  init_->Send(CLEARVM_AGENT_EXIT, number, Bytes(0u) + Bytes(0u));
  EXPECT_TRUE(client.Silent());
}

TEST_F(VmmExecs, RefusesWhatIsNoExec) {
  Peer client = Connect();
  const int fd = null_.get();
  uint32_t request = 0;
  const auto expect = [&](int error, const std::string& payload, const std::vector<int>& fds) {
    client.Send(CLEARVM_CONTROL_EXEC, ++request, payload, fds);
    EXPECT_EQ(client.Reply(request), static_cast<uint32_t>(error)) << request;
  };
  expect(EINVAL, "", {});
  expect(EINVAL, "1234567", {});
  expect(EINVAL, ExecPayload(), {});
  expect(EINVAL, ExecPayload(), {fd, fd});
  expect(EINVAL, ExecPayload(2), {fd});  // with the two that are left of the last one
  expect(EINVAL, Bytes(clearvm_exec{0, 1}), {fd, fd, fd});
  for (const uint16_t type : {uint16_t{CLEARVM_CONTROL_START}, uint16_t{CLEARVM_CONTROL_STOP},
                              uint16_t{0}, uint16_t{999}}) {
    client.Send(type, ++request);
    EXPECT_EQ(client.Reply(request), static_cast<uint32_t>(ENOSYS));
  }
  for (const std::string& payload : {std::string(), std::string(7, 'x'), std::string(9, 'x')}) {
    client.Send(CLEARVM_CONTROL_RESIZE, ++request, payload);
    EXPECT_EQ(client.Reply(request), static_cast<uint32_t>(EINVAL));
  }
  OnLoop([&] { streams_.refuse = true; });
  expect(EBADF, ExecPayload(), {fd, fd, fd});
  OnLoop([&] { streams_.refuse = false; });
  int pipe[2];
  ASSERT_EQ(::pipe2(pipe, O_CLOEXEC), 0);
  const UniqueFd reader(pipe[0]);
  expect(EINVAL, ExecPayload(2), {pipe[1], pipe[1], pipe[1]});
  ::close(pipe[1]);
  char byte;
  EXPECT_EQ(::read(reader.get(), &byte, 1), 0) << "a refused EXEC's descriptors are closed";
  Run(client, ++request);
  expect(0, ExecPayload(), {fd, fd, fd});
  EXPECT_TRUE(init_->Receive().type == CLEARVM_AGENT_EXEC && init_->Silent())
      << "the refused ones never reached init";
}

TEST_F(VmmExecs, ClosesAClientThatBreaksTheProtocolAndNoOther) {
  Peer good = Connect();
  const uint32_t number = Run(good, 1);
  Peer huge = Connect();
  huge.Write(Bytes(clearvm_frame{CLEARVM_FRAME_MAX + 1, CLEARVM_CONTROL_EXEC, 0, 1}));
  EXPECT_TRUE(huge.AtEnd());
  Peer reserved = Connect();
  reserved.Write(Bytes(clearvm_frame{0, CLEARVM_CONTROL_METRICS, 1, 1}));
  EXPECT_TRUE(reserved.AtEnd());
  // More descriptors than a message, or a channel, may carry.
  Peer flood = Connect();
  flood.Write("x", std::vector<int>(9, null_.get()));
  EXPECT_TRUE(flood.AtEnd());
  Peer hoard = Connect();
  const std::string part = Encode(CLEARVM_CONTROL_EXEC, 1, std::string(64, 'x')).substr(0, 13);
  hoard.Write(part, std::vector<int>(8, null_.get()));
  for (int i = 0; i < 2; i++) hoard.Write("x", std::vector<int>(8, null_.get()));
  EXPECT_TRUE(hoard.AtEnd());
  // A request that never ends.
  Peer slow = Connect();
  slow.Write(part);
  init_->Send(CLEARVM_AGENT_EXIT, number, Bytes(0u) + Bytes(0u));
  ExpectExit(good, 1, 0, 0);
}

TEST_F(VmmExecs, DoesNotHearAClientThatDoesNotListen) {
  Peer deaf = Connect();
  const std::string request = Encode(CLEARVM_CONTROL_PAUSE, 1, "");
  // Beyond what the sockets' buffers and the queue hold, it is not read any more.
  constexpr size_t kFarMore = 256 << 20;
  size_t written = 0;
  while (written < kFarMore && deaf.TryWrite(request)) written += request.size();
  EXPECT_LT(written, kFarMore);
  Peer good = Connect();
  Run(good, 1);
}

TEST_F(VmmExecs, TakesSoManyClientsAndProcessesAndNoMore) {
  std::vector<Peer> clients;
  for (int i = 0; i < CLEARVM_CLIENTS_MAX; i++) clients.push_back(Connect());
  Peer late = Connect();
  EXPECT_EQ(late.Reply(0), static_cast<uint32_t>(EAGAIN));
  EXPECT_TRUE(late.AtEnd());
  std::set<uint32_t> numbers;
  for (Peer& client : clients) numbers.insert(Run(client, 1));
  EXPECT_EQ(numbers.size(), static_cast<size_t>(CLEARVM_EXECS_MAX));
  clients[0].Send(CLEARVM_CONTROL_EXEC, 2, ExecPayload(), std::vector<int>(3, null_.get()));
  EXPECT_EQ(clients[0].Reply(2), static_cast<uint32_t>(EAGAIN));
  init_->Send(CLEARVM_AGENT_EXIT, *numbers.begin(), Bytes(0u) + Bytes(0u));
  Settle();
  clients.pop_back();
  Settle();
  Peer next = Connect();
  Run(next, 1);
}

class VmmExecsHostileInit : public VmmExecs, public testing::WithParamInterface<Frame> {};

TEST_P(VmmExecsHostileInit, EndsTheVm) {
  Peer client = Connect();
  Run(client, 1);    // number 1
  Start(client, 2);  // number 2
  const Frame& frame = GetParam();
  init_->Send(frame.type, frame.process, frame.payload);
  EXPECT_TRUE(loop_thread_.joinable());
  loop_thread_.join();  // the session has ended
  EXPECT_EQ(session_->exit_status(), 125);
  loop_thread_ = std::thread([] {});
}

INSTANTIATE_TEST_SUITE_P(
    Frames, VmmExecsHostileInit,
    testing::Values(Frame{CLEARVM_AGENT_STARTED, 1, ""}, Frame{CLEARVM_AGENT_STARTED, 3, ""},
                    Frame{CLEARVM_AGENT_STARTED, 2, "x"}, Frame{CLEARVM_AGENT_EXIT, 1, "1234567"},
                    Frame{CLEARVM_AGENT_EXIT, 2, std::string(8, 0)},
                    Frame{CLEARVM_AGENT_ERROR, 1, std::string(8, 0)},
                    Frame{CLEARVM_AGENT_ERROR, 2, "123"}, Frame{CLEARVM_AGENT_READY, 1, "1234"},
                    Frame{CLEARVM_AGENT_EXIT, 0xffffffff, std::string(8, 0)}, Frame{7, 1, ""}));

}  // namespace
}  // namespace clearvm::vmm
