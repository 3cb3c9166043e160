#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cstring>
#include <string>
#include <vector>

#include "native/vmm/frame_channel.h"
#include "native/vmm/kernel_log.h"

namespace clearvm::vmm {
namespace {

struct Seen {
  uint16_t type;
  uint32_t process;
  std::string payload;
  bool operator==(const Seen&) const = default;
};

std::vector<uint8_t> Encode(uint16_t type, uint32_t process, std::string_view payload) {
  const clearvm_frame header{static_cast<uint32_t>(payload.size()), type, 0, process};
  std::vector<uint8_t> bytes(BytesOf(header).begin(), BytesOf(header).end());
  bytes.insert(bytes.end(), payload.begin(), payload.end());
  return bytes;
}

FrameParser::OnFrame Collect(std::vector<Seen>& seen) {
  return [&seen](const clearvm_frame& header, std::span<const uint8_t> payload) {
    seen.push_back({header.type, header.process, std::string(payload.begin(), payload.end())});
  };
}

TEST(FrameParser, GivesTheSameFramesHoweverTheBytesAreCut) {
  std::vector<uint8_t> stream = Encode(1, 7, "hello");
  const auto empty = Encode(2, 0, "");
  stream.insert(stream.end(), empty.begin(), empty.end());
  const std::vector<Seen> expected = {{1, 7, "hello"}, {2, 0, ""}};
  for (size_t cut = 0; cut <= stream.size(); cut++) {
    FrameParser parser(64);
    std::vector<Seen> seen;
    const std::span<const uint8_t> bytes(stream);
    ASSERT_TRUE(parser.Feed(bytes.first(cut), Collect(seen)).ok());
    ASSERT_TRUE(parser.Feed(bytes.subspan(cut), Collect(seen)).ok());
    EXPECT_EQ(seen, expected) << "cut at " << cut;
  }
}

TEST(FrameParser, RefusesAFrameOverTheLimitBeforeItsPayloadArrives) {
  FrameParser parser(4);
  std::vector<Seen> seen;
  const auto bytes = Encode(1, 0, "12345");
  const auto fed = parser.Feed(std::span<const uint8_t>(bytes).first(12), Collect(seen));
  ASSERT_FALSE(fed.ok());
  EXPECT_EQ(fed.error().code, "ERR_FRAME");
  EXPECT_TRUE(seen.empty());
}

TEST(FrameParser, RefusesAReservedFieldThatIsNotZero) {
  FrameParser parser(64);
  std::vector<Seen> seen;
  auto bytes = Encode(1, 0, "");
  bytes[6] = 1;
  EXPECT_FALSE(parser.Feed(bytes, Collect(seen)).ok());
}

TEST(FrameChannel, CarriesFramesLargerThanTheSocketsBuffer) {
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  auto loop = EventLoop::Create();
  ASSERT_TRUE(loop.ok());
  const std::string big(900'000, 'x');
  std::vector<Seen> seen;
  auto stop = [&](const Error&) { loop.value()->Stop(); };
  auto sender =
      FrameChannel::Create(UniqueFd(pair[0]), 64, loop.value().get(), {Collect(seen), stop});
  auto receiver = FrameChannel::Create(UniqueFd(pair[1]), CLEARVM_FRAME_MAX, loop.value().get(),
                                       {[&](const clearvm_frame& header, auto payload) {
                                          Collect(seen)(header, payload);
                                          loop.value()->Stop();
                                        },
                                        stop});
  ASSERT_TRUE(sender.ok() && receiver.ok());
  sender.value()->Send(3, 1, BytesOf(std::string_view(big)));
  ASSERT_TRUE(loop.value()->Run().ok());
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_EQ(seen[0].payload, big);
}

TEST(FrameChannel, TellsOfThePeersEndAfterItsLastFrame) {
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  auto loop = EventLoop::Create();
  ASSERT_TRUE(loop.ok());
  const auto bytes = Encode(9, 0, "last");
  ASSERT_EQ(::write(pair[0], bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  ::close(pair[0]);
  std::vector<Seen> seen;
  bool closed = false;
  auto channel = FrameChannel::Create(UniqueFd(pair[1]), 64, loop.value().get(),
                                      {Collect(seen), [&](const Error&) {
                                         closed = true;
                                         loop.value()->Stop();
                                       }});
  ASSERT_TRUE(channel.ok());
  ASSERT_TRUE(loop.value()->Run().ok());
  EXPECT_TRUE(closed);
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_EQ(seen[0].payload, "last");
}

std::span<const uint8_t> Text(const std::string& text) { return BytesOf(std::string_view(text)); }

TEST(KernelLog, KeepsTheEndInWholeLines) {
  KernelLog log;
  for (int i = 0; i < 10'000; i++) log.AppendConsole(Text("line " + std::to_string(i) + "\n"));
  const std::string tail = log.Tail(100);
  EXPECT_LE(tail.size(), 100u);
  EXPECT_TRUE(tail.starts_with("line ")) << tail;
  EXPECT_TRUE(tail.ends_with("line 9999\n")) << tail;
}

TEST(KernelLog, PrefersThePanicsDump) {
  KernelLog log;
  log.AppendConsole(Text("console\n"));
  log.AppendPanic(Text("dump\n"));
  EXPECT_EQ(log.Tail(100), "dump\n");
}

}  // namespace
}  // namespace clearvm::vmm
