// What a container's monitor reads: the start request, and frames of whoever may connect to its
// socket.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "native/monitor/request.h"
#include "native/vmm/frame_channel.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::span<const uint8_t> bytes(data + 1, size - 1);
  if ((data[0] & 1) == 0) {
    auto request = clearvm::monitor::ParseRequest(bytes);
    if (!request.ok()) return 0;
    // What is taken is whole: nothing that was not given.
    const auto& value = request.value();
    if (value.id.empty() || value.spec.size() > bytes.size()) std::abort();
    for (const auto& path : value.remove)
      if (path[0] != '/') std::abort();
    if (value.health && (value.health->retries == 0 || value.health->interval.count() <= 0)) {
      std::abort();
    }
    return 0;
  }
  // The same bytes in pieces give the same frames.
  size_t whole = 0, pieces = 0;
  clearvm::vmm::FrameParser one(CLEARVM_MONITOR_FRAME_MAX), other(CLEARVM_MONITOR_FRAME_MAX);
  const auto count = [](size_t& sum) {
    return [&sum](const clearvm_frame& frame, std::span<const uint8_t> payload) {
      if (payload.size() != frame.length || frame.length > CLEARVM_MONITOR_FRAME_MAX) std::abort();
      (void)clearvm::monitor::ParseRestartPolicy(payload);
      sum += 1 + payload.size();
    };
  };
  const bool good = one.Feed(bytes, count(whole)).ok();
  bool same = true;
  const size_t step = 1 + (data[0] >> 1);
  for (size_t at = 0; same && at < bytes.size(); at += step) {
    same = other.Feed(bytes.subspan(at, std::min(step, bytes.size() - at)), count(pieces)).ok();
  }
  if (good != same || (good && whole != pieces)) std::abort();
  return 0;
}
