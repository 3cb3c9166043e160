#include "native/monitor/health.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <utility>

#include "native/base/bytes.h"
#include "native/monitor/json.h"
#include "native/protocol/monitor.h"

namespace clearvm::monitor {
namespace {

using std::chrono::milliseconds;

constexpr uint32_t kRequest = 1;      // the EXEC's number
constexpr size_t kLogEntries = 5;     // as docker keeps them
constexpr size_t kMostOutput = 4096;  // bytes of one check that are kept
constexpr int kTimedOut = -1;

Error BadHealth() {
  return Error{"ERR_MONITOR_REQUEST", 0, "", "the start request: no health check"};
}

std::string Seconds(milliseconds time) {
  std::string text = std::to_string(time.count() / 1000);
  if (time.count() % 1000 == 0) return text + "s";
  std::string rest = std::to_string(1000 + time.count() % 1000).substr(1);
  while (rest.back() == '0') rest.pop_back();
  return text + "." + rest + "s";
}

}  // namespace

Result<HealthConfig> ParseHealth(std::span<const uint8_t> value) {
  ByteReader reader(value);
  HealthConfig config;
  for (milliseconds* each :
       {&config.interval, &config.timeout, &config.start_period, &config.start_interval}) {
    const auto count = reader.Take<uint64_t>();
    if (count > CLEARVM_HEALTH_MAX_MS) return BadHealth();
    *each = milliseconds(count);
  }
  config.retries = reader.Take<uint32_t>();
  const size_t fixed = 4 * sizeof(uint64_t) + sizeof(uint32_t);
  if (!reader.ok() || value.size() <= fixed || config.retries == 0 ||
      config.interval.count() == 0 || config.timeout.count() == 0 ||
      config.start_interval.count() == 0) {
    return BadHealth();
  }
  const auto spec = reader.TakeBytes(value.size() - fixed);
  const clearvm_exec header{};
  const auto bytes = vmm::BytesOf(header);
  config.exec.assign(bytes.begin(), bytes.end());
  config.exec.insert(config.exec.end(), spec.begin(), spec.end());
  return config;
}

bool HealthRecord::Add(CheckResult result, bool counts) {
  const std::string before = status_;
  if (result.exit_code == 0) {
    failing_streak_ = 0;
    status_ = "healthy";
  } else if (counts || status_ != "starting") {
    if (++failing_streak_ >= retries_) status_ = "unhealthy";
  }
  log_.push_back(std::move(result));
  if (log_.size() > kLogEntries) log_.pop_front();
  return status_ != before;
}

std::string HealthRecord::Format() const {
  std::string out = "{\"Status\":";
  AppendJsonString(out, status_);
  out += ",\"FailingStreak\":" + std::to_string(failing_streak_) + ",\"Log\":[";
  for (const CheckResult& each : log_) {
    if (out.back() != '[') out += ',';
    out += "{\"Start\":";
    AppendJsonString(out, each.start);
    out += ",\"End\":";
    AppendJsonString(out, each.end);
    out += ",\"ExitCode\":" + std::to_string(each.exit_code) + ",\"Output\":";
    AppendJsonString(out, each.output);
    out += '}';
  }
  return out + "]}\n";
}

Result<std::unique_ptr<Health>> Health::Start(const HealthConfig& config, EventLoop* loop,
                                              Handlers handlers) {
  std::unique_ptr<Health> health(new Health(config, loop, std::move(handlers)));
  Health* self = health.get();
  health->timer_ = UniqueFd(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!health->timer_.valid()) {
    return SystemError("ERR_MONITOR", "timerfd_create", "cannot make a timer");
  }
  CLEARVM_RETURN_IF_ERROR(
      loop->Add(health->timer_.get(), EPOLLIN, [self](uint32_t) { self->OnTimer(); }));
  health->handlers_.on_result(health->record_);
  health->Pause();
  return health;
}

Health::~Health() {
  if (timer_.valid()) loop_->Remove(timer_.get());
  if (output_.valid()) loop_->Remove(output_.get());
}

bool Health::Starting() const {
  return std::chrono::steady_clock::now() - started_ < config_.start_period;
}

void Health::SetTimer(milliseconds delay) {
  itimerspec when{};
  when.it_value.tv_sec = delay.count() / 1000;
  when.it_value.tv_nsec = delay.count() % 1000 * 1'000'000;
  ::timerfd_settime(timer_.get(), 0, &when, nullptr);
}

void Health::OnTimer() {
  uint64_t count;
  if (::read(timer_.get(), &count, sizeof count) != sizeof count) return;
  if (!channel_) return Begin();
  // Its process is ended; what it started goes on, as with docker.
  const uint32_t about[2] = {SIGKILL, kRequest};
  channel_->Send(CLEARVM_CONTROL_SIGNAL, kRequest + 1, vmm::BytesOf(about));
  result_.output = "Health check exceeded timeout (" + Seconds(config_.timeout) + ")";
  Finish(kTimedOut);
}

// The run, and this with it, may end before it is done.
void Health::Later(std::function<void()> task) {
  loop_->Post([alive = std::weak_ptr<int>(alive_), task = std::move(task)] {
    if (!alive.expired()) task();
  });
}

void Health::Begin() {
  result_ = CheckResult{};
  result_.start = Now();
  // A VM that is paused, ends, or has too much to do is not asked: no result is none.
  if (!Send().ok()) return Pause();
  SetTimer(config_.timeout);
}

Result<void> Health::Send() {
  CLEARVM_ASSIGN(UniqueFd socket, handlers_.connect());
  int ends[2];
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null.valid() || ::pipe2(ends, O_CLOEXEC) != 0) {
    return SystemError("ERR_PIPE", "pipe2", "cannot make the health check's streams");
  }
  output_ = UniqueFd(ends[0]);
  const UniqueFd theirs(ends[1]);
  ::fcntl(output_.get(), F_SETFL, O_NONBLOCK);
  CLEARVM_RETURN_IF_ERROR(
      loop_->Add(output_.get(), EPOLLIN, [this](uint32_t) { (void)ReadOutput(); }));
  CLEARVM_ASSIGN(channel_,
                 vmm::FrameChannel::Create(
                     std::move(socket), CLEARVM_FRAME_MAX, loop_,
                     {[this](const clearvm_frame& frame, std::span<const uint8_t> payload) {
                        OnFrame(frame, payload);
                      },
                      [this](const Error&) { Later([this] { Pause(); }); }}));
  const int fds[3] = {null.get(), theirs.get(), theirs.get()};
  channel_->Send(CLEARVM_CONTROL_EXEC, kRequest, config_.exec, fds);
  return {};
}

void Health::OnFrame(const clearvm_frame& frame, std::span<const uint8_t> payload) {
  if (!channel_) return;
  uint32_t first = 0;
  if (payload.size() >= sizeof first) std::memcpy(&first, payload.data(), sizeof first);
  // Not from inside of the channel, which goes.
  if (frame.type == CLEARVM_CONTROL_REPLY && frame.process <= kRequest && first != 0) {
    Later([this] { Pause(); });
  } else if (frame.type == CLEARVM_CONTROL_EXIT && frame.process == kRequest) {
    while (ReadOutput()) {
    }
    const int code = static_cast<int>(first & 0xff);
    Later([this, code] { Finish(code); });
  } else if (frame.type == CLEARVM_CONTROL_FAILURE && frame.process == kRequest &&
             payload.size() >= 12) {
    uint32_t words[3];
    std::memcpy(words, payload.data(), sizeof words);
    const size_t length = std::min<size_t>({words[2], payload.size() - 12, kMostOutput});
    result_.output.assign(reinterpret_cast<const char*>(payload.data()) + 12, length);
    const int code = static_cast<int>(words[1] & 0xff);
    Later([this, code] { Finish(code == 0 ? kTimedOut : code); });
  }
}

bool Health::ReadOutput() {
  if (!output_.valid()) return false;
  std::array<char, 4096> buffer;
  const ssize_t got = ::read(output_.get(), buffer.data(), buffer.size());
  if (got < 0) return errno == EINTR;
  if (got == 0) {
    loop_->Remove(output_.get());
    output_.reset();
    return false;
  }
  const size_t room = kMostOutput - std::min(result_.output.size(), kMostOutput);
  result_.output.append(buffer.data(), std::min(static_cast<size_t>(got), room));
  return true;
}

void Health::Finish(int exit_code) {
  if (!channel_) return;
  result_.end = Now();
  result_.exit_code = exit_code;
  const bool changed = record_.Add(std::move(result_), !Starting());
  Pause();
  handlers_.on_result(record_);
  if (changed) handlers_.on_change(record_.status());
}

void Health::Pause() {
  if (channel_) channel_->Flush(0);
  channel_.reset();
  if (output_.valid()) loop_->Remove(output_.get());
  output_.reset();
  const bool starting = Starting() && record_.status() == "starting";
  SetTimer(starting ? std::min(config_.start_interval, config_.interval) : config_.interval);
}

}  // namespace clearvm::monitor
