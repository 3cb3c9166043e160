// When the VM reached each point of its life.
#ifndef CLEARVM_VMM_TIMELINE_H_
#define CLEARVM_VMM_TIMELINE_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

#include "native/protocol/control.h"

namespace clearvm::vmm {

// CLOCK_MONOTONIC, nanoseconds.
uint64_t MonotonicNow();

// Each point is stamped once, the first time; from any thread.
class Timeline {
 public:
  void Stamp(clearvm_timeline point);
  // Forgets all of them.
  void Reset();
  // 0 where the point has not been reached.
  uint64_t At(clearvm_timeline point) const {
    return times_[point].load(std::memory_order_relaxed);
  }
  // As CLEARVM_CONTROL_TIMELINE carries it.
  std::vector<uint8_t> Serialize() const;

 private:
  std::array<std::atomic<uint64_t>, CLEARVM_TIME_RESTORED + 1> times_{};
};

}  // namespace clearvm::vmm

#endif  // CLEARVM_VMM_TIMELINE_H_
