// The start request: what the engine has written down for the monitor of a container.
#ifndef CLEARVM_MONITOR_REQUEST_H_
#define CLEARVM_MONITOR_REQUEST_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "native/base/result.h"
#include "native/monitor/health.h"
#include "native/protocol/monitor.h"

namespace clearvm::monitor {

// When an ended container is started again; docker's --restart.
struct RestartPolicy {
  clearvm_restart kind = CLEARVM_RESTART_NO;
  uint32_t most = 0;  // restarts, with ON_FAILURE; 0: any number
};

struct Request {
  std::string id;
  std::string vmm;
  std::vector<std::string> arguments;
  std::vector<std::string> first_arguments;  // for the first run; empty: the same
  std::string kernel;
  std::string initrd;
  std::vector<uint8_t> spec;
  uint64_t log_size = 0;   // bytes; 0: unlimited
  uint32_t log_files = 1;  // 0: no log
  RestartPolicy restart;
  uint32_t stdio = 0;         // CLEARVM_STDIO_*
  uint32_t stop_signal = 15;  // for when the monitor itself is asked to end
  uint32_t stop_seconds = 10;
  std::vector<std::string> remove;  // at the end
  std::string events;               // the journal's directory; empty: none
  std::string actor = "{}";         // what events say of the container
  std::optional<HealthConfig> health;
};

// Errors: ERR_MONITOR_REQUEST (cut short, an unknown tag, a value of the wrong size, something
// missing).
Result<Request> ParseRequest(std::span<const uint8_t> bytes);

// Of a RESTART value or an UPDATE frame. Errors: ERR_MONITOR_REQUEST.
Result<RestartPolicy> ParseRestartPolicy(std::span<const uint8_t> value);

}  // namespace clearvm::monitor

#endif  // CLEARVM_MONITOR_REQUEST_H_
