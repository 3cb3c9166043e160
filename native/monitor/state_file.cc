#include "native/monitor/state_file.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>

#include "native/base/fd.h"
#include "native/monitor/json.h"

namespace clearvm::monitor {
namespace {

constexpr char kFile[] = "state.json";
constexpr char kTemporary[] = "state.json.new";
constexpr char kSpare[] = "state.json.spare";
constexpr size_t kReserved = 4096;                 // bytes; a state with its error is shorter
constexpr char kNever[] = "0001-01-01T00:00:00Z";  // as docker writes it

std::string ReadSmallFile(const std::string& path) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  char text[1024];
  const ssize_t got = file.valid() ? ::read(file.get(), text, sizeof text) : -1;
  return got <= 0 ? "" : std::string(text, static_cast<size_t>(got));
}

void AppendProcess(std::string& out, pid_t pid) {
  out += "{\"pid\":" + std::to_string(pid) + ",\"startTime\":";
  AppendJsonString(out, ProcessStartTime(pid));
  out += '}';
}

std::string Format(const State& state) {
  std::string boot = ReadSmallFile("/proc/sys/kernel/random/boot_id");
  if (!boot.empty() && boot.back() == '\n') boot.pop_back();
  std::string out = "{\"version\":1,\"status\":";
  const auto text = [&out](const char* name, const std::string& value) {
    out += ",\"" + std::string(name) + "\":";
    AppendJsonString(out, value);
  };
  AppendJsonString(out, state.status);
  text("bootId", boot);
  out += ",\"monitor\":";
  AppendProcess(out, ::getpid());
  if (state.pid != 0) {
    out += ",\"vmm\":";
    AppendProcess(out, state.pid);
  }
  text("startedAt", state.started_at.empty() ? kNever : state.started_at);
  text("finishedAt", state.finished_at.empty() ? kNever : state.finished_at);
  out += ",\"exitCode\":" + std::to_string(state.exit_code);
  out += ",\"signal\":" + std::to_string(state.signal);
  out += ",\"restarts\":" + std::to_string(state.restarts);
  out += state.stopped ? ",\"stopped\":true" : ",\"stopped\":false";
  if (state.oom) out += ",\"oomKilled\":true";
  text("error", state.error);
  return out + "}\n";
}

}  // namespace

std::string ProcessStartTime(pid_t pid) {
  const std::string stat = ReadSmallFile("/proc/" + std::to_string(pid) + "/stat");
  // The command's name, in parentheses, may hold anything: fields are counted behind the last one.
  size_t at = stat.rfind(')');
  for (int field = 2; field < 22 && at != std::string::npos; field++) at = stat.find(' ', at + 1);
  return at == std::string::npos ? "" : stat.substr(at + 1, stat.find(' ', at + 1) - at - 1);
}

void ReserveState(int directory) {
  for (const char* name : {kTemporary, kSpare}) {
    const UniqueFd file(::openat(directory, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    // Without space there is none for this either: the next write tries without it.
    [[maybe_unused]] const int done =
        file.valid() ? ::posix_fallocate(file.get(), 0, kReserved) : 0;
  }
}

Result<void> WriteState(int directory, const State& state) {
  std::string text = Format(state);
  if (text.size() > kReserved) {
    State shorter = state;
    shorter.error.resize(std::min(shorter.error.size(), kReserved / 8));
    text = Format(shorter);
  }
  // Not truncated before: its blocks are what is written to when the disk is full.
  const UniqueFd file(::openat(directory, kTemporary, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  if (!file.valid() ||
      ::pwrite(file.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()) ||
      ::ftruncate(file.get(), static_cast<off_t>(text.size())) != 0 || ::fsync(file.get()) != 0 ||
      ::renameat(directory, kTemporary, directory, kFile) != 0 || ::fsync(directory) != 0) {
    return SystemError("ERR_STATE", "write", "cannot write state.json");
  }
  // The first state takes no other one's place, which would give space back.
  ::renameat(directory, kSpare, directory, kTemporary);
  ReserveState(directory);
  return {};
}

Result<void> WriteHealth(int directory, const std::string& text) {
  constexpr char kHealth[] = "health.json";
  constexpr char kNew[] = "health.json.new";
  const UniqueFd file(::openat(directory, kNew, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file.valid() ||
      ::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
      ::renameat(directory, kNew, directory, kHealth) != 0) {
    return SystemError("ERR_STATE", "write", "cannot write health.json");
  }
  return {};
}

}  // namespace clearvm::monitor
