#include "native/vmm/session.h"

#include <sys/random.h>
#include <time.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "native/vmm/text.h"

namespace clearvm::vmm {
namespace {

constexpr size_t kLogInReport = 4096;  // bytes of the kernel log that go with a failure
constexpr int kFlushTimeoutMs = 1000;  // for an engine that does not read: then it is not told
// What may wait for init, in bytes: a few EXECs of the largest size.
constexpr size_t kMaxForAgent = 4 << 20;

// The little-endian integer at the start of `payload`; 0 where it is too short.
uint32_t FirstUint32(std::span<const uint8_t> payload, size_t index = 0) {
  uint32_t value = 0;
  if (payload.size() >= 4 * (index + 1)) std::memcpy(&value, payload.data() + 4 * index, 4);
  return value;
}

// The number of the client's EXEC behind the first word of a payload, where there is one.
uint32_t ExecNumber(std::span<const uint8_t> payload) { return FirstUint32(payload, 1); }

}  // namespace

Session::Session(EventLoop* loop, Timeline* timeline, KernelLog* log)
    : loop_(loop), timeline_(timeline), log_(log) {}

Result<void> Session::AttachControl(UniqueFd socket) {
  CLEARVM_ASSIGN(
      control_,
      FrameChannel::Create(std::move(socket), CLEARVM_FRAME_MAX, loop_,
                           {[this](const clearvm_frame& frame, std::span<const uint8_t> payload) {
                              OnControlFrame(frame, payload);
                            },
                            // Whoever started this VM is gone: so is its purpose.
                            [this](const Error&) { Finish(exit_status_); }}));
  return {};
}

Result<void> Session::AttachListener(UniqueFd socket, Streams* streams) {
  execs_.emplace(streams,
                 [this](uint16_t type, uint32_t process, std::span<const uint8_t> payload) {
                   agent_->Send(type, process, payload);
                 });
  CLEARVM_ASSIGN(clients_, Clients::Listen(std::move(socket), loop_,
                                           {[this](FrameChannel* from, const clearvm_frame& frame,
                                                   std::span<const uint8_t> payload) {
                                              OnClientFrame(from, frame, payload);
                                            },
                                            [this](FrameChannel* from) {
                                              execs_->Forget(from);
                                              if (snapshot_ && snapshot_->client == from) {
                                                EndSnapshot();
                                              }
                                            }}));
  return {};
}

Result<void> Session::AttachAgent(UniqueFd socket) {
  CLEARVM_ASSIGN(agent_, FrameChannel::Create(
                             std::move(socket), CLEARVM_GUEST_FRAME_MAX, loop_,
                             {[this](const clearvm_frame& frame, std::span<const uint8_t> payload) {
                                OnAgentFrame(frame, payload);
                              },
                              [this](const Error& error) {
                                if (!exited_) {
                                  Fail(CLEARVM_FAILURE_AGENT, 125, "init: " + error.message);
                                }
                              }}));
  return {};
}

void Session::SetSpec(std::vector<uint8_t> spec) {
  spec_ = std::move(spec);
  have_spec_ = true;
  SendSpec();
}

void Session::SetForked() {
  agent_ready_ = true;
  if (boot_only_) return Finish(0);
  SendSpec();
}

void Session::TellOrigin(clearvm_origin origin, std::string_view why) {
  if (!control_) {
    if (origin == CLEARVM_ORIGIN_TEMPLATE) return;
    std::fprintf(stderr, "clearvm-vmm: booting, because %.*s\n", static_cast<int>(why.size()),
                 why.data());
    return;
  }
  std::vector<uint8_t> payload;
  Append(payload, BytesOf(static_cast<uint32_t>(origin)));
  Append(payload, BytesOf(why));
  control_->Send(CLEARVM_CONTROL_ORIGIN, 0, payload);
}

void Session::SendSpec() {
  if (!have_spec_ || !agent_ready_) return;
  if (restored_) return RenewRestored();
  clearvm_identity identity{};
  if (::getrandom(identity.seed, sizeof identity.seed, 0) != sizeof identity.seed) {
    return Fail(CLEARVM_FAILURE_DEVICE, 125, "the host has no random numbers for the guest");
  }
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);  // cannot fail with this clock
  identity.time =
      static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
  const Machine::Tsc tsc = machine_->GuestTsc();
  identity.tsc = tsc.now;
  identity.tsc_khz = tsc.khz;
  agent_->Send(CLEARVM_AGENT_IDENTITY, 0, BytesOf(identity));
  if (memory_end_ != 0) {
    // guest-kernel/patches: the kernel gives up what lies behind, none of which it has used.
    const std::string end = "vm.late_memory_end=" + std::to_string(memory_end_);
    const clearvm_tlv tlv{CLEARVM_SPEC_SYSCTL, 0, static_cast<uint32_t>(end.size())};
    Append(spec_, BytesOf(tlv));
    Append(spec_, BytesOf(std::string_view(end)));
  }
  agent_->Send(CLEARVM_AGENT_SPEC, 0, spec_);
  spec_.clear();
}

void Session::PostEnd(VmEnd end) {
  loop_->Post([this, end = std::move(end)] {
    if (!exited_) Fail(end.kind, 125, end.message);
  });
}

void Session::PostDrained(uint32_t port) {
  loop_->Post([this, port] {
    if (execs_) execs_->OnDrained(port);
    undrained_.erase(port);
    TellExitWhenDrained();
  });
}

void Session::Reply(FrameChannel* to, uint32_t request, const Answer& answer) {
  std::vector<uint8_t> payload;
  Append(payload, BytesOf(static_cast<uint32_t>(answer.error)));
  Append(payload, BytesOf(std::string_view(answer.text)));
  to->Send(CLEARVM_CONTROL_REPLY, request, payload);
}

void Session::OnControlFrame(const clearvm_frame& frame, std::span<const uint8_t> payload) {
  FrameChannel* control = control_.get();
  switch (frame.type) {
    case CLEARVM_CONTROL_START:
      return Reply(control, frame.process, HandleStart(payload));
    case CLEARVM_CONTROL_STOP:
      Reply(control, frame.process, {});
      return Finish(128 + 9);
    case CLEARVM_CONTROL_EXEC:
      return Reply(control, frame.process, {ENOSYS, "not on this socket"});
    default:
      return Reply(control, frame.process, Handle(control, frame, payload));
  }
}

void Session::OnClientFrame(FrameChannel* from, const clearvm_frame& frame,
                            std::span<const uint8_t> payload) {
  if (frame.type == CLEARVM_CONTROL_SNAPSHOT) return StartSnapshot(from, frame.process);
  if (frame.type != CLEARVM_CONTROL_EXEC) {
    return Reply(from, frame.process, Handle(from, frame, payload));
  }
  Reply(from, frame.process, Exec(from, frame.process, payload));
}

Session::Answer Session::HandleStart(std::span<const uint8_t> payload) {
  if (have_spec_) return {EALREADY, "the VM has been started already"};
  SetSpec({payload.begin(), payload.end()});
  return {};
}

Session::Answer Session::Handle(FrameChannel* from, const clearvm_frame& frame,
                                std::span<const uint8_t> payload) {
  switch (frame.type) {
    case CLEARVM_CONTROL_PAUSE:
    case CLEARVM_CONTROL_RESUME:
      return SetPaused(from, frame.type == CLEARVM_CONTROL_PAUSE);
    case CLEARVM_CONTROL_METRICS:
      if (machine_ == nullptr) return {EAGAIN, "the VM is not set up yet"};
      return {0, machine_->Metrics()};
    case CLEARVM_CONTROL_SIGNAL:
      return ForwardToAgent(from, CLEARVM_AGENT_SIGNAL, payload);
    case CLEARVM_CONTROL_RESIZE:
      return ForwardToAgent(from, CLEARVM_AGENT_RESIZE, payload);
    case CLEARVM_CONTROL_DETACH: {
      if (!execs_ || payload.size() != 4) return {EINVAL, "a payload of the wrong size"};
      const Execs::Refusal refusal = execs_->Detach(from, FirstUint32(payload));
      return {refusal.error, std::string(refusal.text)};
    }
    default:
      return {ENOSYS, "an unknown request"};
  }
}

Session::Answer Session::SetPaused(FrameChannel* from, bool paused) {
  if (machine_ == nullptr) return {EAGAIN, "the VM is not set up yet"};
  if (snapshot_) {
    if (snapshot_->client != from || paused) {
      return {EAGAIN, "a snapshot is being made of it: try again"};
    }
    EndSnapshot();
    return {};
  }
  if (restored_ && !started_) return {EAGAIN, "the VM is not set up yet"};
  if (paused == paused_) return {EALREADY, paused ? "it is paused already" : "it is not paused"};
  if (paused) {
    machine_->Pause();
  } else {
    machine_->Resume();
  }
  paused_ = paused;
  return {};
}

Session::Answer Session::Exec(FrameChannel* from, uint32_t request,
                              std::span<const uint8_t> payload) {
  Execs::Refusal obstacle;
  if (!started_ || exited_) {
    obstacle = {ESRCH, "the container does not run"};
  } else if (paused_) {
    obstacle = {EBUSY, "the container is paused"};
  } else if (agent_->queued() > kMaxForAgent) {
    obstacle = {EAGAIN, "the guest does not answer"};
  }
  const Execs::Refusal refusal = execs_->Start(from, request, payload, obstacle);
  return {refusal.error, std::string(refusal.text)};
}

Session::Answer Session::ForwardToAgent(FrameChannel* from, uint16_t type,
                                        std::span<const uint8_t> payload) {
  if (payload.size() != 4 && payload.size() != 8) return {EINVAL, "a payload of the wrong size"};
  const uint32_t exec = payload.size() == 8 ? ExecNumber(payload) : 0;
  const uint32_t process = exec != 0 && execs_ ? execs_->Running(from, exec) : 0;
  if (!started_ || exited_ || (exec != 0 && process == 0)) {
    return {ESRCH, "the process does not run"};
  }
  if (agent_->queued() > kMaxForAgent) return {EAGAIN, "the guest does not answer"};
  agent_->Send(type, process, payload.first(4));
  return {};
}

void Session::OnAgentFrame(const clearvm_frame& frame, std::span<const uint8_t> payload) {
  if (exited_ || finished_) return;
  if (frame.process != 0) {
    if (execs_ && execs_->OnAgentFrame(frame, payload)) return;
    return Fail(CLEARVM_FAILURE_AGENT, 125,
                "init sent a frame of type " + std::to_string(frame.type) +
                    " about a process that is not there");
  }
  switch (frame.type) {
    case CLEARVM_AGENT_READY:
      timeline_->Stamp(CLEARVM_TIME_AGENT_READY);
      if (agent_ready_ || FirstUint32(payload) != CLEARVM_AGENT_VERSION) {
        return Fail(CLEARVM_FAILURE_AGENT, 125,
                    "init speaks another version of the protocol: rebuild the initramfs");
      }
      agent_ready_ = true;
      if (on_ready_) return on_ready_();
      if (boot_only_) return Finish(0);
      return SendSpec();
    case CLEARVM_AGENT_STARTED:
      timeline_->Stamp(CLEARVM_TIME_STARTED);
      started_ = true;
      SendTimeline();
      if (control_) control_->Send(CLEARVM_CONTROL_STARTED, 0, {});
      if (on_started_) on_started_();
      return;
    case CLEARVM_AGENT_RESTORED:
      if (!restored_ || started_) break;
      timeline_->Stamp(CLEARVM_TIME_STARTED);
      started_ = true;
      if (execs_) execs_->HangUp();
      SendTimeline();
      if (control_) control_->Send(CLEARVM_CONTROL_STARTED, 0, {});
      return;
    case CLEARVM_AGENT_EXIT:
      if (payload.size() != 12) break;
      timeline_->Stamp(CLEARVM_TIME_EXITED);
      exited_ = true;
      exit_code_ = FirstUint32(payload, 0) & 0xff;
      exit_signal_ = FirstUint32(payload, 1) & 0x7f;
      exit_flags_ = FirstUint32(payload, 2) & CLEARVM_EXIT_OOM;
      return TellExitWhenDrained();
    case CLEARVM_AGENT_ERROR: {
      if (payload.size() < 4) break;
      const uint32_t code = FirstUint32(payload);
      const bool known = code >= 125 && code <= 127;
      return Fail(CLEARVM_FAILURE_PROCESS, known ? code : 125, Printable(payload.subspan(4)));
    }
    default:
      break;
  }
  Fail(CLEARVM_FAILURE_AGENT, 125,
       "init sent a frame of type " + std::to_string(frame.type) + " that makes no sense");
}

void Session::SendTimeline() {
  if (control_) control_->Send(CLEARVM_CONTROL_TIMELINE, 0, timeline_->Serialize());
}

void Session::TellExitWhenDrained() {
  if (!exited_ || finished_ || !undrained_.empty()) return;
  if (before_exit_) before_exit_();
  SendTimeline();
  if (control_) {
    std::vector<uint8_t> payload;
    for (const uint32_t value : {exit_code_, exit_signal_, exit_flags_})
      Append(payload, BytesOf(value));
    control_->Send(CLEARVM_CONTROL_EXIT, 0, payload);
  }
  Finish(static_cast<int>(exit_signal_ != 0 ? 128 + exit_signal_ : exit_code_));
}

void Session::Fail(clearvm_failure kind, uint32_t exit_code, const std::string& message) {
  if (finished_) return;
  const std::string log = log_->Tail(kLogInReport);
  if (control_) {
    SendTimeline();
    std::vector<uint8_t> payload;
    for (uint32_t value :
         {static_cast<uint32_t>(kind), exit_code, static_cast<uint32_t>(message.size())}) {
      Append(payload, BytesOf(value));
    }
    Append(payload, BytesOf(message));
    Append(payload, BytesOf(log));
    control_->Send(CLEARVM_CONTROL_FAILURE, 0, payload);
  } else {
    std::fprintf(stderr, "clearvm-vmm: %s\n", message.c_str());
    if (kind != CLEARVM_FAILURE_PROCESS && !log.empty()) std::fprintf(stderr, "%s\n", log.c_str());
  }
  Finish(static_cast<int>(exit_code));
}

void Session::Finish(int exit_status) {
  if (finished_) return;
  finished_ = true;
  exit_status_ = exit_status;
  if (control_) control_->Flush(kFlushTimeoutMs);
  loop_->Stop();
}

}  // namespace clearvm::vmm
