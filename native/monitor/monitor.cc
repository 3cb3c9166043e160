#include "native/monitor/monitor.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstring>

#include "native/base/journal.h"
#include "native/base/unix_socket.h"
#include "native/monitor/json.h"

namespace clearvm::monitor {
namespace {

constexpr char kSocket[] = "monitor.sock";
constexpr size_t kMostRequest = 4u << 20;  // bytes: a spec has at most 1 MiB
constexpr uint32_t kNever = 0xffffffff;
constexpr int kSaveAgain = 1;           // seconds
constexpr size_t kEnough = 256 * 1024;  // bytes that a client which is waited for may be behind

Result<std::vector<uint8_t>> ReadFileAt(int directory, const char* name, size_t most) {
  const UniqueFd file(::openat(directory, name, O_RDONLY | O_CLOEXEC));
  struct stat info {};
  if (!file.valid() || ::fstat(file.get(), &info) != 0) {
    return SystemError("ERR_MONITOR_REQUEST", "openat", "cannot open the start request");
  }
  const auto size = static_cast<size_t>(info.st_size);
  std::vector<uint8_t> bytes(std::min(size, most));
  if (size > most ||
      ::read(file.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) {
    return Error{"ERR_MONITOR_REQUEST", 0, "", "cannot read the start request"};
  }
  return bytes;
}

// 0: never.
void SetTimer(const UniqueFd& timer, std::chrono::milliseconds delay) {
  itimerspec when{};
  when.it_value.tv_sec = delay.count() / 1000;
  when.it_value.tv_nsec = delay.count() % 1000 * 1'000'000;
  ::timerfd_settime(timer.get(), 0, &when, nullptr);
}

}  // namespace

int Monitor::Run() {
  if (auto up = SetUp(); !up.ok()) {
    ReportError(up.error());
    return 125;
  }
  StartVm();
  (void)loop_->Run();
  return 0;
}

Result<void> Monitor::SetUp() {
  CLEARVM_RETURN_IF_ERROR(Lock());
  CLEARVM_RETURN_IF_ERROR(ReadRequest());
  CLEARVM_ASSIGN(auto log, JsonLog::Open(places_.data.get(), request_.id + "-json.log",
                                         request_.log_size, request_.log_files));
  log_.emplace(std::move(log));
  CLEARVM_ASSIGN(loop_, EventLoop::Create());
  CLEARVM_RETURN_IF_ERROR(HandleSignals());
  CLEARVM_RETURN_IF_ERROR(MakeTimers());
  CLEARVM_RETURN_IF_ERROR(Listen());
  ReserveState(places_.data.get());
  if (!places_.client.valid()) return {};
  CLEARVM_ASSIGN(auto client, AddClient(std::move(places_.client)));
  // It has asked to be attached before this process was: now it is, before the first output.
  client->ReadNow();
  return {};
}

// Held as long as this process lives: that is what says that the container has a monitor.
Result<void> Monitor::Lock() {
  lock_ = UniqueFd(
      ::openat(places_.runtime.get(), "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock_.valid()) return SystemError("ERR_STATE", "openat", "cannot open the container's lock");
  if (::flock(lock_.get(), LOCK_EX | LOCK_NB) == 0) return {};
  if (errno == EWOULDBLOCK) {
    return Error{"ERR_CONTAINER_RUNNING", 0, "", "the container is running, or being removed"};
  }
  return SystemError("ERR_STATE", "flock", "cannot lock the container");
}

Result<void> Monitor::ReadRequest() {
  CLEARVM_ASSIGN(const auto bytes, ReadFileAt(places_.runtime.get(), "start", kMostRequest));
  CLEARVM_ASSIGN(request_, ParseRequest(bytes));
  return {};
}

// By the descriptor: the directory's name may be longer than a socket's may be.
std::string Monitor::PathOf(const char* name) const {
  ::unlinkat(places_.runtime.get(), name, 0);
  return "/proc/self/fd/" + std::to_string(places_.runtime.get()) + "/" + name;
}

Result<void> Monitor::Listen() {
  CLEARVM_ASSIGN(listener_, ListenUnix(PathOf(kSocket)));
  return loop_->Add(listener_.get(), EPOLLIN, [this](uint32_t) { Accept(); });
}

// The host shuts down, or somebody means this container: it ends as `stop` ends it.
Result<void> Monitor::HandleSignals() {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGTERM);
  ::sigaddset(&set, SIGINT);
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
  signals_ = UniqueFd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_.valid()) return SystemError("ERR_MONITOR", "signalfd", "cannot take signals");
  return loop_->Add(signals_.get(), EPOLLIN, [this](uint32_t) {
    signalfd_siginfo info;
    if (::read(signals_.get(), &info, sizeof info) == sizeof info) {
      Stop(request_.stop_signal, request_.stop_seconds);
    }
  });
}

Result<void> Monitor::MakeTimers() {
  const auto make = [this](UniqueFd& timer, auto act) -> Result<void> {
    timer = UniqueFd(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    if (!timer.valid()) return SystemError("ERR_MONITOR", "timerfd_create", "cannot make a timer");
    const int fd = timer.get();
    return loop_->Add(fd, EPOLLIN, [fd, act](uint32_t) {
      uint64_t count;
      if (::read(fd, &count, sizeof count) == sizeof count) act();
    });
  };
  CLEARVM_RETURN_IF_ERROR(make(restart_timer_, [this] { StartVm(); }));
  CLEARVM_RETURN_IF_ERROR(make(save_timer_, [this] { Save(); }));
  return make(stop_timer_, [this] {
    if (run_) run_->Destroy();
  });
}

void Monitor::StartVm() {
  VmRun::Handlers handlers;
  handlers.on_started = [this] { OnStarted(); };
  handlers.on_report = [this](uint16_t type, std::span<const uint8_t> payload) {
    Report(type, payload);
  };
  handlers.on_reply = [this](uint32_t request, int error, std::string_view message) {
    const auto found =
        std::find_if(forwarded_.begin(), forwarded_.end(),
                     [request](const Forwarded& each) { return each.number == request; });
    if (found == forwarded_.end()) return;
    if (auto client = found->client.lock()) client->Reply(found->request, error, message);
    forwarded_.erase(found);
  };
  handlers.on_output = [this](int stream, std::span<const uint8_t> bytes) {
    OnOutput(stream, bytes);
  };
  handlers.on_stdin_drained = [this] { OnDrained(); };
  handlers.on_end = [this](const RunEnd& end) { OnRunEnd(end); };
  // A new one for each run: who has connected to the last VMM and was not heard is told so.
  auto vmm_socket = ListenUnix(PathOf("vmm.sock"));
  // A container that was restored is started like any other when it is started again.
  const bool first = !ever_started_ && !request_.first_arguments.empty();
  const auto& arguments = first ? request_.first_arguments : request_.arguments;
  auto started = vmm_socket.ok() ? VmRun::Start(request_, arguments, vmm_socket.value().get(),
                                                loop_.get(), std::move(handlers))
                                 : Result<std::unique_ptr<VmRun>>(std::move(vmm_socket.error()));
  if (!started.ok()) {
    ReportError(started.error());
    return AfterRun({.exit_code = 125, .error = started.error().message});
  }
  run_ = std::move(started).value();
  UpdateReading();
}

void Monitor::OnStarted() {
  ever_started_ = true;
  started_at_ = std::chrono::steady_clock::now();
  state_ = State{};
  state_.status = "running";
  state_.pid = run_->pid();
  state_.started_at = Now();
  state_.restarts = restarts_.count();
  Save();
  Note("start");
  places_.report.reset();
  if (stopped_) return run_->Destroy();
  CheckHealth();
}

void Monitor::CheckHealth() {
  if (!request_.health) return;
  Health::Handlers handlers;
  handlers.connect = [this] {
    return ConnectUnix("/proc/self/fd/" + std::to_string(places_.runtime.get()) + "/vmm.sock");
  };
  handlers.on_result = [this](const HealthRecord& record) {
    // A result that cannot be written is an old one to readers; the next one comes soon.
    (void)WriteHealth(places_.data.get(), record.Format());
  };
  handlers.on_change = [this](const std::string& status) { Note("health_status: " + status); };
  auto health = Health::Start(*request_.health, loop_.get(), std::move(handlers));
  if (health.ok()) health_ = std::move(health).value();
}

void Monitor::Note(std::string_view action, std::string_view more) {
  if (request_.events.empty()) return;
  std::string line = "{\"time\":";
  AppendJsonString(line, Now());
  line += ",\"type\":\"container\",\"action\":";
  AppendJsonString(line, action);
  line += ",\"id\":";
  AppendJsonString(line, request_.id);
  line += ",\"attributes\":" + request_.actor.substr(0, request_.actor.size() - 1);
  if (!more.empty()) line += more.substr(request_.actor.size() == 2 ? 1 : 0);
  line += "}}\n";
  // A full disk: there is an event less.
  (void)AppendToJournal(request_.events, line, CLEARVM_JOURNAL_MAX);
}

void Monitor::OnOutput(int stream, std::span<const uint8_t> bytes) {
  log_->Write(stream == 0 ? JsonLog::kStdout : JsonLog::kStderr, bytes);
  const uint32_t flag = stream == 0 ? CLEARVM_ATTACH_STDOUT : CLEARVM_ATTACH_STDERR;
  const uint16_t type = stream == 0 ? CLEARVM_MONITOR_OUT : CLEARVM_MONITOR_ERR;
  constexpr size_t kMostBehind = 8u << 20;  // bytes, for those that output does not wait for
  for (const auto& client : std::vector(clients_)) {
    if ((client->attached & flag) == 0) continue;
    client->Send(type, 0, bytes);
    if (client->queued() > kMostBehind) {
      client->Close();
      OnClose(*client);
    }
  }
  UpdateReading();
}

void Monitor::UpdateReading() {
  const bool behind = std::any_of(clients_.begin(), clients_.end(), [](const auto& client) {
    return (client->attached & CLEARVM_ATTACH_HOLD) != 0 && client->queued() > kEnough;
  });
  if (run_ && !run_->ended()) run_->SetReading(!behind);
}

void Monitor::OnRunEnd(const RunEnd& end) {
  SetTimer(stop_timer_, std::chrono::milliseconds(0));
  // Not from inside of what is to be deleted.
  loop_->Post([this, end] {
    health_.reset();
    run_.reset();
    AfterRun(end);
  });
}

void Monitor::AfterRun(const RunEnd& end) {
  log_->Flush();
  last_ = end;
  const auto ran = std::chrono::duration_cast<std::chrono::milliseconds>(
      std::chrono::steady_clock::now() - started_at_);
  state_.pid = 0;
  state_.finished_at = Now();
  state_.exit_code = end.exit_code;
  state_.signal = end.signal;
  state_.error = end.error;
  for (const Forwarded& each : forwarded_) {
    if (auto client = each.client.lock())
      client->Reply(each.request, ESRCH, "the container has ended");
  }
  forwarded_.clear();
  state_.oom = end.oom;
  if (ever_started_ && state_.status == "running") {
    if (end.oom) Note("oom", "");
    Note("die", ",\"execDuration\":\"" + std::to_string(ran.count() / 1000) + "\",\"exitCode\":\"" +
                    std::to_string(end.exit_code) + "\"");
  }
  // A container that could not be started at all is the starter's to deal with.
  const auto delay = ever_started_ ? restarts_.Next(request_.restart, end.exit_code, stopped_, ran)
                                   : std::chrono::milliseconds(-1);
  if (delay.count() < 0) return Finish();
  state_.status = "restarting";
  Save();
  TellExit(end);
  SetTimer(restart_timer_, delay);
}

void Monitor::CancelRestart() {
  SetTimer(restart_timer_, std::chrono::milliseconds(0));
  state_.restarts = restarts_.count() - 1;
  Finish();
}

void Monitor::Finish() {
  state_.status = ever_started_ ? "exited" : "created";
  state_.stopped = stopped_;
  if (!ever_started_) state_.finished_at.clear();
  Save();
  if (!request_.remove.empty() && ever_started_) {
    // Trees deeper than any path may be long, and names of any bytes: rm(1) knows how.
    std::vector<std::string> arguments{"-rf", "--one-file-system", "--"};
    arguments.insert(arguments.end(), request_.remove.begin(), request_.remove.end());
    auto removed = StartChild({"/bin/rm", std::move(arguments), {-1, -1, -1}, false});
    siginfo_t info;
    if (removed.ok()) {
      ::waitid(P_PIDFD, static_cast<id_t>(removed.value().pidfd.get()), &info, WEXITED | __WALL);
    }
    Note("destroy");
  }
  for (const char* name : {kSocket, "vmm.sock"}) ::unlinkat(places_.runtime.get(), name, 0);
  // From here on another monitor may take over: those who hear of the end may start it again.
  lock_.reset();
  places_.report.reset();
  TellExit(last_);
  for (const auto& client : std::vector(clients_)) {
    for (const uint32_t request : client->stops) client->Reply(request, 0, "");
  }
  Client::FlushAll(clients_);
  clients_.clear();
  loop_->Stop();
}

void Monitor::Save() {
  if (std::string lost = log_->TakeError(); !lost.empty() && state_.error.empty()) {
    state_.error = std::move(lost);
  }
  // With a full disk, and without the space that was set aside, it is tried again: until then the
  // old state stays, and is true as long as this process lives and it says "running".
  unsaved_ = !WriteState(places_.data.get(), state_).ok();
  SetTimer(save_timer_, std::chrono::seconds(unsaved_ ? kSaveAgain : 0));
}

void Monitor::Report(uint16_t type, std::span<const uint8_t> payload) {
  if (!places_.report.valid()) return;
  const clearvm_frame header{static_cast<uint32_t>(payload.size()), type, 0, 0};
  std::vector<uint8_t> frame(sizeof header + payload.size());
  std::memcpy(frame.data(), &header, sizeof header);
  if (!payload.empty()) std::memcpy(frame.data() + sizeof header, payload.data(), payload.size());
  // Pipes hold more than all reports together; a starter that is gone is told nothing.
  [[maybe_unused]] const ssize_t wrote = ::write(places_.report.get(), frame.data(), frame.size());
}

void Monitor::ReportError(const Error& error) {
  const std::string text = error.code + " " + error.message;
  Report(CLEARVM_MONITOR_ERROR, vmm::BytesOf(text));
}

void Monitor::Stop(uint32_t signal, uint32_t seconds) {
  stopped_ = true;
  if (!run_) return CancelRestart();
  if (!run_->started()) return run_->Destroy();
  run_->Signal(0, signal);
  run_->Resume();
  if (seconds == 0) return run_->Destroy();
  if (seconds != kNever) SetTimer(stop_timer_, std::chrono::seconds(seconds));
}

void Monitor::Kill(Client& client, uint32_t request, uint32_t signal, bool for_good) {
  if (!run_ || !run_->started()) {
    return client.Reply(request, ESRCH, "the container is not running");
  }
  stopped_ = stopped_ || for_good || signal == SIGKILL;
  if (signal == SIGKILL) {
    constexpr uint32_t kPatience = 2;  // seconds, for a guest that does not get around to it
    client.stops.push_back(request);
    return Stop(signal, kPatience);
  }
  if (++last_request_ == 0) last_request_ = 1;
  const auto self = std::find_if(clients_.begin(), clients_.end(),
                                 [&client](const auto& each) { return each.get() == &client; });
  if (self != clients_.end()) forwarded_.push_back({last_request_, *self, request});
  run_->Signal(last_request_, signal);
}

}  // namespace clearvm::monitor
