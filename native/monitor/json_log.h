// A container's log in docker's json-file format.
#ifndef CLEARVM_MONITOR_JSON_LOG_H_
#define CLEARVM_MONITOR_JSON_LOG_H_

#include <cstdint>
#include <span>
#include <string>

#include "native/base/fd.h"
#include "native/base/result.h"

namespace clearvm::monitor {

// One line of JSON for each line of output: {"log":"text\n","stream":"stdout","time":"..."}. Lines
// of more than 16 KiB are cut, as docker does. A file that has reached its size becomes NAME.1,
// that NAME.2 and so on. Where the disk is full, lines are lost, never cut.
class JsonLog {
 public:
  enum Stream { kStdout, kStderr };

  // The log `name` in the directory, appended to. `size`: bytes before it is rotated, 0: never;
  // `files`: how many there are, the current one included; 0: no log is written. Errors: ERR_LOG.
  static Result<JsonLog> Open(int directory, std::string name, uint64_t size, uint32_t files);

  void Write(Stream stream, std::span<const uint8_t> bytes);
  // Writes what no line end has followed: when the container has ended.
  void Flush();
  // What the last failed write failed with; empty when none has since the last call of this.
  std::string TakeError() { return std::exchange(error_, ""); }

 private:
  JsonLog(int directory, std::string name, uint64_t size, uint32_t files)
      : directory_(directory), name_(std::move(name)), limit_(size), files_(files) {}
  Result<void> OpenFile();
  void WriteLine(Stream stream, std::string_view line);
  void Rotate();

  int directory_;
  std::string name_;
  uint64_t limit_;
  uint32_t files_;
  UniqueFd file_;
  uint64_t size_ = 0;
  std::string partial_[2];
  std::string entry_;  // kept for its memory
  std::string error_;
};

}  // namespace clearvm::monitor

#endif  // CLEARVM_MONITOR_JSON_LOG_H_
