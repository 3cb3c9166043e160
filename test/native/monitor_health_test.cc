#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <cstring>

#include "native/monitor/health.h"
#include "native/monitor/request.h"

namespace clearvm::monitor {
namespace {

using std::chrono::milliseconds;

std::vector<uint8_t> Value(std::initializer_list<uint64_t> times, uint32_t retries,
                           std::string_view spec) {
  std::vector<uint8_t> value;
  const auto add = [&value](const auto& number) {
    const auto bytes = vmm::BytesOf(number);
    value.insert(value.end(), bytes.begin(), bytes.end());
  };
  for (const uint64_t time : times) add(time);
  add(retries);
  value.insert(value.end(), spec.begin(), spec.end());
  return value;
}

TEST(MonitorHealth, TakesAConfig) {
  auto config = ParseHealth(Value({30'000, 2'000, 0, 5'000}, 3, "spec"));
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(config.value().interval, milliseconds(30'000));
  EXPECT_EQ(config.value().timeout, milliseconds(2'000));
  EXPECT_EQ(config.value().start_interval, milliseconds(5'000));
  EXPECT_EQ(config.value().retries, 3u);
  EXPECT_EQ(config.value().exec.size(), sizeof(clearvm_exec) + 4);
}

TEST(MonitorHealth, RefusesWhatIsNone) {
  const auto fails = [](const std::vector<uint8_t>& value) {
    auto config = ParseHealth(value);
    return !config.ok() && config.error().code == "ERR_MONITOR_REQUEST";
  };
  const auto good = Value({1, 1, 0, 1}, 1, "s");
  EXPECT_FALSE(fails(good));
  for (size_t size = 0; size < good.size(); size++) {
    EXPECT_TRUE(fails({good.begin(), good.begin() + static_cast<ptrdiff_t>(size)})) << size;
  }
  EXPECT_TRUE(fails(Value({0, 1, 0, 1}, 1, "s")));
  EXPECT_TRUE(fails(Value({1, 0, 0, 1}, 1, "s")));
  EXPECT_TRUE(fails(Value({1, 1, 0, 0}, 1, "s")));
  EXPECT_TRUE(fails(Value({1, 1, 0, 1}, 0, "s")));
  EXPECT_TRUE(fails(Value({1, CLEARVM_HEALTH_MAX_MS + 1, 0, 1}, 1, "s")));
}

CheckResult Check(int exit_code) { return {"from", "to", exit_code, "out"}; }

TEST(MonitorHealth, IsUnhealthyAfterSoManyFailuresInARow) {
  HealthRecord record(2);
  EXPECT_EQ(record.status(), "starting");
  EXPECT_FALSE(record.Add(Check(1), true));
  EXPECT_TRUE(record.Add(Check(1), true));
  EXPECT_EQ(record.status(), "unhealthy");
  EXPECT_TRUE(record.Add(Check(0), true));
  EXPECT_EQ(record.status(), "healthy");
  EXPECT_FALSE(record.Add(Check(1), true));
  EXPECT_FALSE(record.Add(Check(0), true));
  EXPECT_FALSE(record.Add(Check(1), true));
  EXPECT_EQ(record.status(), "healthy");
}

TEST(MonitorHealth, FailuresOfTheStartDoNotCountUntilItWasHealthy) {
  HealthRecord record(1);
  EXPECT_FALSE(record.Add(Check(1), false));
  EXPECT_FALSE(record.Add(Check(-1), false));
  EXPECT_EQ(record.status(), "starting");
  EXPECT_TRUE(record.Add(Check(0), false));
  EXPECT_TRUE(record.Add(Check(1), false));
  EXPECT_EQ(record.status(), "unhealthy");
}

TEST(MonitorHealth, WritesTheLastFiveAsDockerDoes) {
  HealthRecord record(9);
  EXPECT_EQ(record.Format(), "{\"Status\":\"starting\",\"FailingStreak\":0,\"Log\":[]}\n");
  for (int i = 1; i <= 6; i++) record.Add(Check(i), true);
  const std::string text = record.Format();
  EXPECT_EQ(text.find("\"ExitCode\":1,"), text.npos);
  EXPECT_NE(
      text.find("\"FailingStreak\":6,\"Log\":[{\"Start\":\"from\",\"End\":\"to\",\"ExitCode\":2,"
                "\"Output\":\"out\"},"),
      text.npos);
}

// A loop, and what a VMM would answer.
class MonitorHealthRun : public testing::Test {
 protected:
  void SetUp() override { loop_ = std::move(EventLoop::Create()).value(); }

  Health::Handlers Handlers() {
    Health::Handlers handlers;
    handlers.connect = [this]() -> Result<UniqueFd> {
      if (refuse_ > 0 && refuse_-- > 0) return Error{"ERR_SOCKET", 0, "", "nobody listens"};
      int pair[2];
      EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
      vmm::FrameChannel::Options options;
      options.takes_fds = true;
      vmm_ =
          std::move(vmm::FrameChannel::Create(UniqueFd(pair[1]), CLEARVM_FRAME_MAX, loop_.get(),
                                              {[this](const clearvm_frame& frame,
                                                      std::span<const uint8_t>) { Answer(frame); },
                                               [](const Error&) {}},
                                              options))
              .value();
      return UniqueFd(pair[0]);
    };
    handlers.on_result = [this](const HealthRecord& record) {
      texts_.push_back(record.Format());
      if (texts_.size() > wanted_) loop_->Stop();
    };
    handlers.on_change = [this](const std::string& status) { changes_.push_back(status); };
    return handlers;
  }

  void Answer(const clearvm_frame& frame) {
    if (frame.type == CLEARVM_CONTROL_SIGNAL) killed_ = true;
    if (frame.type != CLEARVM_CONTROL_EXEC) return;
    auto fds = vmm_->TakeFds(3);
    ASSERT_EQ(fds.size(), 3u);
    const uint32_t error = refusal_;
    refusal_ = 0;
    vmm_->Send(CLEARVM_CONTROL_REPLY, frame.process, vmm::BytesOf(error));
    if (on_exec_) on_exec_();
    if (error != 0 || hang_) return;
    vmm_->Send(CLEARVM_CONTROL_STARTED, frame.process, {});
    EXPECT_EQ(::write(fds[1].get(), output_.data(), output_.size()),
              static_cast<ssize_t>(output_.size()));
    EXPECT_EQ(::write(fds[2].get(), "err", 3), 3);
    const uint32_t end[2] = {exit_code_, 0};
    vmm_->Send(CLEARVM_CONTROL_EXIT, frame.process, vmm::BytesOf(end));
  }

  void Run(size_t wanted, HealthConfig config) {
    wanted_ = wanted;
    auto health = Health::Start(config, loop_.get(), Handlers());
    ASSERT_TRUE(health.ok());
    ASSERT_TRUE(loop_->Run().ok());
  }
  HealthConfig Config() {
    return {milliseconds(1), milliseconds(60'000), milliseconds(0), milliseconds(1), 2, {1, 2, 3}};
  }

  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<vmm::FrameChannel> vmm_;
  std::vector<std::string> texts_;
  std::vector<std::string> changes_;
  size_t wanted_ = 0;
  int refuse_ = 0;
  uint32_t refusal_ = 0;
  uint32_t exit_code_ = 0;
  bool hang_ = false;
  bool killed_ = false;
  std::function<void()> on_exec_;
  std::string output_ = "out ";
};

TEST_F(MonitorHealthRun, ChecksAgainAndAgain) {
  Run(3, Config());
  EXPECT_EQ(texts_[0], "{\"Status\":\"starting\",\"FailingStreak\":0,\"Log\":[]}\n");
  EXPECT_NE(texts_[1].find("\"Output\":\"out err\""), std::string::npos);
  EXPECT_EQ(changes_, std::vector<std::string>{"healthy"});
}

TEST_F(MonitorHealthRun, FailsByTheExitStatusAndKeepsTheBeginningOfTheOutput) {
  exit_code_ = 7;
  output_ = std::string(6000, 'x');
  Run(2, Config());
  EXPECT_EQ(changes_, std::vector<std::string>{"unhealthy"});
  EXPECT_NE(texts_[2].find("\"ExitCode\":7,\"Output\":\"" + std::string(4096, 'x') + "\""),
            std::string::npos);
}

TEST_F(MonitorHealthRun, EndsACheckThatTakesTooLong) {
  hang_ = true;
  HealthConfig config = Config();
  config.timeout = milliseconds(1500);
  Run(1, config);
  EXPECT_NE(texts_[1].find("\"ExitCode\":-1,\"Output\":\"Health check exceeded timeout (1.5s)\""),
            std::string::npos);
  // The signal lies in the socket of a connection that is closed.
  vmm_->ReadAll();
  EXPECT_TRUE(killed_);
}

TEST_F(MonitorHealthRun, MayBeLetGoOfWhenTheVmHasGone) {
  hang_ = true;
  wanted_ = 100;
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
  const UniqueFd read(ends[0]), write(ends[1]);
  auto health = std::move(Health::Start(Config(), loop_.get(), Handlers())).value();
  const auto on_end = [this, &health, &read](uint32_t) {
    loop_->Remove(read.get());
    loop_->Post([this, &health] {
      health.reset();
      loop_->Post([this] { loop_->Stop(); });
    });
  };
  ASSERT_TRUE(loop_->Add(read.get(), EPOLLIN, on_end).ok());
  // Both are heard of in one go: first that the run is over, then that the connection is.
  on_exec_ = [this, &write] {
    // A round later, when what was sent before has been read.
    loop_->Post([this, &write] {
      loop_->Post([this, &write] {
        EXPECT_EQ(::write(write.get(), "x", 1), 1);
        vmm_.reset();
      });
    });
  };
  ASSERT_TRUE(loop_->Run().ok());
  EXPECT_EQ(texts_.size(), 1u);
}

TEST_F(MonitorHealthRun, HasNoResultOfAVmThatDoesNotTakeIt) {
  refuse_ = 3;
  refusal_ = EBUSY;
  Run(1, Config());
  EXPECT_EQ(texts_.size(), 2u);
  EXPECT_NE(texts_[1].find("\"Status\":\"healthy\""), std::string::npos);
}

}  // namespace
}  // namespace clearvm::monitor
