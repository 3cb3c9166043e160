// state.json: what a container does, written so that no crash leaves half of it.
#ifndef CLEARVM_MONITOR_STATE_FILE_H_
#define CLEARVM_MONITOR_STATE_FILE_H_

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "native/base/result.h"

namespace clearvm::monitor {

struct State {
  std::string status;  // "created" (its start has failed), "running", "restarting", "exited"
  pid_t pid = 0;       // the VMM's; 0: none
  std::string started_at;
  std::string finished_at;  // empty: never
  int exit_code = 0;
  uint32_t signal = 0;  // that ended the command; 0: none
  bool oom = false;     // its last run's kernel has killed a process for want of memory
  std::string error;
  uint32_t restarts = 0;
  bool stopped = false;  // by the user
};

// Sets space aside for the next state, so that it can be written to a disk that is full by then.
// Best effort.
void ReserveState(int directory);

// Writes state.json into the directory: a temporary file, fsync, rename, fsync of the directory;
// and sets space aside for the next one. An error text that is too long for that is cut. Errors:
// ERR_STATE.
Result<void> WriteState(int directory, const State& state);

// Replaces health.json by the text; readers see the old one or the new one. Errors: ERR_STATE.
Result<void> WriteHealth(int directory, const std::string& text);

// When a process was started, in clock ticks since boot, as field 22 of /proc/PID/stat has it;
// empty where there is none of that number.
std::string ProcessStartTime(pid_t pid);

}  // namespace clearvm::monitor

#endif  // CLEARVM_MONITOR_STATE_FILE_H_
