// A container's health check: a command that is run in it again and again while it runs.
#ifndef CLEARVM_MONITOR_HEALTH_H_
#define CLEARVM_MONITOR_HEALTH_H_

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "native/base/event_loop.h"
#include "native/base/fd.h"
#include "native/base/result.h"
#include "native/protocol/control.h"
#include "native/vmm/frame_channel.h"

namespace clearvm::monitor {

// What is run, and when; docker's HEALTHCHECK.
struct HealthConfig {
  std::chrono::milliseconds interval{0};        // from the end of one to the next
  std::chrono::milliseconds timeout{0};         // of one
  std::chrono::milliseconds start_period{0};    // after the start, in which failures do not count
  std::chrono::milliseconds start_interval{0};  // in that time, in place of the interval
  uint32_t retries = 0;                         // failures in a row that make it unhealthy
  std::vector<uint8_t> exec;                    // payload of the EXEC frame
};

// Of a HEALTH value. Errors: ERR_MONITOR_REQUEST.
Result<HealthConfig> ParseHealth(std::span<const uint8_t> value);

// How one check went.
struct CheckResult {
  std::string start;  // as FormatTime has it
  std::string end;
  int exit_code = 0;   // 0: healthy; -1: it was ended because it took too long
  std::string output;  // the first bytes of both streams
};

// What the results say, without any I/O.
class HealthRecord {
 public:
  explicit HealthRecord(uint32_t retries) : retries_(retries) {}

  // `counts`: the start period is over. True: the status has changed.
  bool Add(CheckResult result, bool counts);
  // "starting", "healthy" or "unhealthy".
  const std::string& status() const { return status_; }
  // As docker's State.Health.
  std::string Format() const;

 private:
  uint32_t retries_;
  std::string status_ = "starting";
  uint32_t failing_streak_ = 0;
  std::deque<CheckResult> log_;
};

// Checks one run of a container, from its making on. Used on the loop's thread only.
class Health {
 public:
  struct Handlers {
    // A new connection to the VMM's listening socket.
    std::function<Result<UniqueFd>()> connect;
    // There is a new result, or none yet (at first).
    std::function<void(const HealthRecord& record)> on_result;
    // The status is another one.
    std::function<void(const std::string& status)> on_change;
  };
  // Errors: ERR_MONITOR (no timer).
  static Result<std::unique_ptr<Health>> Start(const HealthConfig& config, EventLoop* loop,
                                               Handlers handlers);
  ~Health();

 private:
  Health(const HealthConfig& config, EventLoop* loop, Handlers handlers)
      : config_(config), loop_(loop), handlers_(std::move(handlers)), record_(config.retries) {}
  bool Starting() const;
  void SetTimer(std::chrono::milliseconds delay);
  void OnTimer();
  void Begin();
  Result<void> Send();
  void OnFrame(const clearvm_frame& frame, std::span<const uint8_t> payload);
  // Not from inside of the channel, which the task may let go of.
  void Later(std::function<void()> task);
  // False: there is nothing (more).
  bool ReadOutput();
  void Finish(int exit_code);
  // Lets go of the check under way, if there is one, and waits for the next one's time.
  void Pause();

  const HealthConfig config_;
  EventLoop* loop_;
  Handlers handlers_;
  HealthRecord record_;
  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  UniqueFd timer_;
  std::unique_ptr<vmm::FrameChannel> channel_;  // of the check under way
  UniqueFd output_;
  CheckResult result_;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

}  // namespace clearvm::monitor

#endif  // CLEARVM_MONITOR_HEALTH_H_
