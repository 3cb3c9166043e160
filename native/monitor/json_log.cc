#include "native/monitor/json_log.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "native/monitor/json.h"

namespace clearvm::monitor {
namespace {

constexpr size_t kLongestLine = 16 * 1024;  // bytes; docker's

}  // namespace

Result<JsonLog> JsonLog::Open(int directory, std::string name, uint64_t size, uint32_t files) {
  JsonLog log(directory, std::move(name), size, files);
  if (files > 0) CLEARVM_RETURN_IF_ERROR(log.OpenFile());
  return log;
}

Result<void> JsonLog::OpenFile() {
  file_ = UniqueFd(
      ::openat(directory_, name_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640));
  struct stat info {};
  if (!file_.valid() || ::fstat(file_.get(), &info) != 0) {
    return SystemError("ERR_LOG", "openat", "cannot open the log " + name_);
  }
  size_ = static_cast<uint64_t>(info.st_size);
  return {};
}

void JsonLog::Write(Stream stream, std::span<const uint8_t> bytes) {
  if (files_ == 0) return;
  std::string& partial = partial_[stream];
  std::string_view rest(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  while (!rest.empty()) {
    const size_t end = rest.find('\n');
    const size_t wanted = end == std::string_view::npos ? rest.size() : end + 1;
    const size_t length = std::min(wanted, kLongestLine - partial.size());
    partial += rest.substr(0, length);
    rest.remove_prefix(length);
    if (partial.back() == '\n' || partial.size() == kLongestLine) {
      WriteLine(stream, partial);
      partial.clear();
    }
  }
}

void JsonLog::Flush() {
  for (const Stream stream : {kStdout, kStderr}) {
    if (!partial_[stream].empty()) WriteLine(stream, partial_[stream]);
    partial_[stream].clear();
  }
}

void JsonLog::WriteLine(Stream stream, std::string_view line) {
  if (limit_ > 0 && size_ >= limit_) Rotate();
  entry_ = "{\"log\":";
  AppendJsonString(entry_, line);
  entry_ += stream == kStdout ? ",\"stream\":\"stdout\",\"time\":\""
                              : ",\"stream\":\"stderr\",\"time\":\"";
  entry_ += Now();
  entry_ += "\"}\n";
  if (!file_.valid()) return;
  const ssize_t wrote = ::write(file_.get(), entry_.data(), entry_.size());
  if (wrote == static_cast<ssize_t>(entry_.size())) {
    size_ += entry_.size();
    return;
  }
  if (wrote >= 0) errno = ENOSPC;
  error_ = SystemError("ERR_LOG", "write", "lines of the log are lost").message;
  // A reader must not find half a line.
  [[maybe_unused]] const int cut = ::ftruncate(file_.get(), static_cast<off_t>(size_));
}

void JsonLog::Rotate() {
  const auto numbered = [this](uint32_t n) {
    return n == 0 ? name_ : name_ + "." + std::to_string(n);
  };
  // By the oldest first: whatever happens in between, no file is lost but that one.
  for (uint32_t n = files_ - 1; n > 0; n--) {
    ::renameat(directory_, numbered(n - 1).c_str(), directory_, numbered(n).c_str());
  }
  if (files_ == 1) ::unlinkat(directory_, name_.c_str(), 0);
  if (auto opened = OpenFile(); !opened.ok()) error_ = opened.error().message;
}

}  // namespace clearvm::monitor
