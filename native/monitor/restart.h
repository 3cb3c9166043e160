// docker's restart policies and the pauses between restarts.
#ifndef CLEARVM_MONITOR_RESTART_H_
#define CLEARVM_MONITOR_RESTART_H_

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "native/monitor/request.h"

namespace clearvm::monitor {

// Counts restarts, and says how long to wait before the next one: as docker does, 100 ms, then
// twice as long each time up to a minute, and 100 ms again after a run of ten seconds.
class Restarts {
 public:
  using Milliseconds = std::chrono::milliseconds;

  // How long to wait before the container is started again; negative: not at all. `stopped`: by the
  // user.
  Milliseconds Next(const RestartPolicy& policy, int exit_code, bool stopped, Milliseconds ran) {
    if (ran >= kGoodRun) delay_ = Milliseconds(0);
    if (stopped || !Wanted(policy, exit_code)) return Milliseconds(-1);
    delay_ = delay_.count() == 0 ? kFirst : std::min(delay_ * 2, kLongest);
    count_++;
    return delay_;
  }

  uint32_t count() const { return count_; }

 private:
  static constexpr Milliseconds kFirst{100};
  static constexpr Milliseconds kLongest{60'000};
  static constexpr Milliseconds kGoodRun{10'000};

  bool Wanted(const RestartPolicy& policy, int exit_code) const {
    switch (policy.kind) {
      case CLEARVM_RESTART_NO:
        return false;
      case CLEARVM_RESTART_ON_FAILURE:
        return exit_code != 0 && (policy.most == 0 || count_ < policy.most);
      case CLEARVM_RESTART_ALWAYS:
      case CLEARVM_RESTART_UNLESS_STOPPED:
        return true;
    }
    return false;
  }

  Milliseconds delay_{0};
  uint32_t count_ = 0;
};

}  // namespace clearvm::monitor

#endif  // CLEARVM_MONITOR_RESTART_H_
