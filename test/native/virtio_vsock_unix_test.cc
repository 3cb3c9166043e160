// The Unix sockets that vsock meets the host at.
#include <poll.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/un.h>

#include "native/virtio/vsock.h"
#include "test/native/virtio_vsock_guest.h"

namespace clearvm::virtio::testing {
namespace {

class VirtioVsockUnix : public ::testing::Test, public VsockGuest {
 protected:
  void SetUp() override {
    char path[] = "/tmp/clearvm-vsock-XXXXXX";
    directory_ = ::mkdtemp(path);
    VsockOptions options;
    options.unix_path = directory_ + "/v";
    options.unix_listener = Listen("v");
    Boot(std::move(options));
  }
  void TearDown() override {
    for (const std::string& name : names_) ::unlink((directory_ + "/" + name).c_str());
    ::rmdir(directory_.c_str());
  }
  sockaddr_un Address(const std::string& name) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string path = directory_ + "/" + name;
    std::memcpy(address.sun_path, path.data(), path.size());
    return address;
  }
  UniqueFd Listen(const std::string& name) {
    names_.push_back(name);
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_un address = Address(name);
    EXPECT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::listen(fd.get(), 4096), 0);
    return fd;
  }
  UniqueFd Client(const std::string& greeting) {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_un address = Address("v");
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    if (!greeting.empty()) WriteBytes(fd.get(), greeting);
    return fd;
  }
  bool HasEnd(const UniqueFd& fd) {
    pollfd poll{fd.get(), POLLIN, 0};
    return ::poll(&poll, 1, 10000) == 1 && ReadBytes(fd.get(), 1).empty();
  }

  std::string directory_;
  std::vector<std::string> names_;
};

TEST_F(VirtioVsockUnix, TheGuestReachesAListener) {
  const UniqueFd listener = Listen("v_4000000000");
  Send(kOpRequest, 1, 4000000000);
  EXPECT_EQ(Expect(kOpResponse, 1, 4000000000).header.buf_alloc, 65536u);
  const UniqueFd host(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  Send(kOpRw, 1, 4000000000, "ping");
  EXPECT_EQ(ReadBytes(host.get(), 4), "ping");
  WriteBytes(host.get(), "pong");
  EXPECT_EQ(Expect(kOpRw, 1, 4000000000).payload, "pong");
  Send(kOpShutdown, 1, 4000000000, "", kShutdownBoth);
  Expect(kOpRst, 1, 4000000000);
  EXPECT_TRUE(HasEnd(host));
  // The ports may be used again, several connections at once.
  Connect(1, 4000000000);
  Connect(2, 4000000000);
}

TEST_F(VirtioVsockUnix, WhereNobodyListensTheGuestIsRefused) {
  Send(kOpRequest, 1, 80);
  Expect(kOpRst, 1, 80);
}

TEST_F(VirtioVsockUnix, AHostClientReachesTheGuest) {
  const UniqueFd client = Client("CONNECT 1234\nearly");
  const Packet request = Receive();
  EXPECT_EQ(request.header.op, kOpRequest);
  EXPECT_EQ(request.header.dst_port, 1234u);
  EXPECT_EQ(request.header.buf_alloc, 65536u);
  const uint32_t host_port = request.header.src_port;
  ExpectSilence();
  Send(kOpResponse, 1234, host_port);
  const std::string answer = "OK " + std::to_string(host_port) + "\n";
  EXPECT_EQ(ReadBytes(client.get(), answer.size()), answer);
  EXPECT_EQ(Expect(kOpRw, 1234, host_port).payload, "early");
  Send(kOpRw, 1234, host_port, "hello");
  EXPECT_EQ(ReadBytes(client.get(), 5), "hello");
  // A second client to the same port comes from another one.
  const UniqueFd second = Client("CONNECT 1234\n");
  EXPECT_NE(Receive().header.src_port, host_port);
}

TEST_F(VirtioVsockUnix, AGreetingMayComeInPieces) {
  const UniqueFd client = Client("CONN");
  ExpectSilence();
  WriteBytes(client.get(), "ECT 4294967295");
  ExpectSilence();
  WriteBytes(client.get(), "\n");
  EXPECT_EQ(Receive().header.dst_port, UINT32_MAX);
}

TEST_F(VirtioVsockUnix, ARefusalClosesTheClient) {
  const UniqueFd client = Client("CONNECT 1\n");
  const Packet request = Receive();
  Send(kOpRst, 1, request.header.src_port);
  EXPECT_TRUE(HasEnd(client));
  Settle();
  ExpectSilence();
}

TEST_F(VirtioVsockUnix, AnAnswerThatIsNoneResets) {
  const UniqueFd client = Client("CONNECT 1\n");
  const Packet request = Receive();
  Send(kOpRw, 1, request.header.src_port, "too early");
  Expect(kOpRst, 1, request.header.src_port);
  EXPECT_TRUE(HasEnd(client));
}

TEST_F(VirtioVsockUnix, WrongGreetingsAreHungUpOn) {
  for (const char* greeting :
       {"\n", "CONNECT\n", "CONNECT \n", "CONNECT x\n", "CONNECT -1\n", "CONNECT 4294967296\n",
        "connect 1\n", "CONNECT 1 \n", "GET / HTTP/1.1\r\n\r\n", "CONNECT 99999999999999999999\n",
        "0123456789012345678901234567890123456789"}) {
    SCOPED_TRACE(greeting);
    const UniqueFd client = Client(greeting);
    pollfd poll{client.get(), POLLIN, 0};
    ASSERT_EQ(::poll(&poll, 1, 10000), 1);
    char byte;
    EXPECT_LE(::read(client.get(), &byte, 1), 0);  // 0, or ECONNRESET where bytes were left unread
  }
  ExpectSilence();
}

TEST_F(VirtioVsockUnix, AClientThatGoesBeforeTheAnswerIsForgotten) {
  UniqueFd client = Client("CONNECT 1\n");
  const Packet request = Receive();
  client.reset();
  Expect(kOpRst, 1, request.header.src_port);
  client = Client("CONN");
  client.reset();
  ExpectSilence();
}

TEST_F(VirtioVsockUnix, ConnectionsAreBounded) {
  rlimit old;
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &old), 0);
  const rlimit limit{8192, old.rlim_max};
  if (old.rlim_cur < 8192 && ::setrlimit(RLIMIT_NOFILE, &limit) != 0) GTEST_SKIP() << "too few fds";
  const UniqueFd listener = Listen("v_9");
  uint32_t accepted = 0;
  for (uint32_t i = 0; i < 1030; i++) {
    Send(kOpRequest, i, 9);
    const Packet packet = Receive();
    if (packet.header.op == kOpResponse) accepted++;
    if (i >= 1024) {
      EXPECT_EQ(packet.header.op, kOpRst);
    }
  }
  EXPECT_EQ(accepted, 1024u);
  // A client waits until there is room for it.
  const UniqueFd client = Client("CONNECT 5\n");
  ExpectSilence();
  Send(kOpRst, 0, 9);
  EXPECT_EQ(Receive().header.op, kOpRequest);
  ::setrlimit(RLIMIT_NOFILE, &old);
}

TEST_F(VirtioVsockUnix, TwoStreamsTakeTurns) {
  const UniqueFd listener = Listen("v_9");
  UniqueFd hosts[2];
  for (uint32_t i = 0; i < 2; i++) {
    Connect(i, 9);
    hosts[i] = UniqueFd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  }
  std::thread feeders[2];
  for (uint32_t i = 0; i < 2; i++) {
    feeders[i] = std::thread([fd = hosts[i].get(), i] { WriteBytes(fd, Pattern(200000, i)); });
  }
  std::string got[2];
  while ((got[0].size() < 200000 || got[1].size() < 200000) && !HasFailure()) {
    const Packet packet = Receive();
    if (packet.header.op == kOpRw) got[packet.header.dst_port] += packet.payload;
    if (packet.header.op == kOpCreditRequest) Send(kOpCreditUpdate, packet.header.dst_port, 9);
  }
  for (uint32_t i = 0; i < 2; i++) {
    feeders[i].join();
    EXPECT_TRUE(got[i] == Pattern(200000, i));
  }
}

}  // namespace
}  // namespace clearvm::virtio::testing
