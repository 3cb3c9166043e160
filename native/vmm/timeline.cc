#include "native/vmm/timeline.h"

#include <time.h>

namespace clearvm::vmm {

uint64_t MonotonicNow() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);  // cannot fail with this clock
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

void Timeline::Stamp(clearvm_timeline point) {
  uint64_t unset = 0;
  times_[point].compare_exchange_strong(unset, MonotonicNow(), std::memory_order_relaxed);
}

void Timeline::Reset() {
  for (auto& time : times_) time.store(0, std::memory_order_relaxed);
}

std::vector<uint8_t> Timeline::Serialize() const {
  std::vector<uint8_t> bytes;
  for (uint32_t point = 0; point < times_.size(); point++) {
    const uint64_t time = times_[point].load(std::memory_order_relaxed);
    if (time == 0) continue;
    for (uint64_t value : {static_cast<uint64_t>(point), time}) {
      for (int shift = 0; shift < 64; shift += 8)
        bytes.push_back(static_cast<uint8_t>(value >> shift));
    }
  }
  return bytes;
}

}  // namespace clearvm::vmm
