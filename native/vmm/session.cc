#include "native/vmm/session.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace clearvm::vmm {
namespace {

constexpr size_t kLogInReport = 4096;  // bytes of the kernel log that go with a failure
constexpr int kFlushTimeoutMs = 1000;  // for an engine that does not read: then it is not told

// The little-endian integer at the start of `payload`; 0 where it is too short.
uint32_t FirstUint32(std::span<const uint8_t> payload, size_t index = 0) {
  uint32_t value = 0;
  if (payload.size() >= 4 * (index + 1)) std::memcpy(&value, payload.data() + 4 * index, 4);
  return value;
}

void Append(std::vector<uint8_t>& bytes, std::span<const uint8_t> more) {
  bytes.insert(bytes.end(), more.begin(), more.end());
}

// Text from the guest, made safe for a terminal.
std::string Printable(std::span<const uint8_t> bytes) {
  std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return text;
}

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

void Session::SendSpec() {
  if (!have_spec_ || !agent_ready_) return;
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
    undrained_.erase(port);
    TellExitWhenDrained();
  });
}

void Session::Reply(uint32_t request, int error, std::string_view text) {
  std::vector<uint8_t> payload;
  Append(payload, BytesOf(static_cast<uint32_t>(error)));
  Append(payload, BytesOf(text));
  control_->Send(CLEARVM_CONTROL_REPLY, request, payload);
}

void Session::ForwardToAgent(const clearvm_frame& frame, uint16_t type,
                             std::span<const uint8_t> payload, size_t size) {
  if (payload.size() != size) return Reply(frame.process, EINVAL, "a payload of the wrong size");
  if (!started_ || exited_) return Reply(frame.process, ESRCH, "the process does not run");
  agent_->Send(type, 0, payload);
  Reply(frame.process, 0, "");
}

void Session::OnControlFrame(const clearvm_frame& frame, std::span<const uint8_t> payload) {
  switch (frame.type) {
    case CLEARVM_CONTROL_START:
      if (have_spec_) return Reply(frame.process, EALREADY, "the VM has been started already");
      SetSpec({payload.begin(), payload.end()});
      return Reply(frame.process, 0, "");
    case CLEARVM_CONTROL_PAUSE:
      machine_->Pause();
      return Reply(frame.process, 0, "");
    case CLEARVM_CONTROL_RESUME:
      machine_->Resume();
      return Reply(frame.process, 0, "");
    case CLEARVM_CONTROL_STOP:
      Reply(frame.process, 0, "");
      return Finish(128 + 9);
    case CLEARVM_CONTROL_METRICS:
      return Reply(frame.process, 0, machine_->Metrics());
    case CLEARVM_CONTROL_SIGNAL:
      return ForwardToAgent(frame, CLEARVM_AGENT_SIGNAL, payload, 4);
    case CLEARVM_CONTROL_RESIZE:
      return ForwardToAgent(frame, CLEARVM_AGENT_RESIZE, payload, 4);
    default:
      return Reply(frame.process, ENOSYS, "an unknown request");
  }
}

void Session::OnAgentFrame(const clearvm_frame& frame, std::span<const uint8_t> payload) {
  if (exited_ || finished_) return;
  switch (frame.type) {
    case CLEARVM_AGENT_READY:
      timeline_->Stamp(CLEARVM_TIME_AGENT_READY);
      if (agent_ready_ || FirstUint32(payload) != CLEARVM_AGENT_VERSION) {
        return Fail(CLEARVM_FAILURE_AGENT, 125,
                    "init speaks another version of the protocol: rebuild the initramfs");
      }
      agent_ready_ = true;
      if (boot_only_) return Finish(0);
      return SendSpec();
    case CLEARVM_AGENT_STARTED:
      timeline_->Stamp(CLEARVM_TIME_STARTED);
      started_ = true;
      SendTimeline();
      if (control_) control_->Send(CLEARVM_CONTROL_STARTED, 0, {});
      return;
    case CLEARVM_AGENT_EXIT:
      if (payload.size() != 8) break;
      timeline_->Stamp(CLEARVM_TIME_EXITED);
      exited_ = true;
      exit_code_ = FirstUint32(payload, 0) & 0xff;
      exit_signal_ = FirstUint32(payload, 1) & 0x7f;
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
  SendTimeline();
  if (control_) {
    std::vector<uint8_t> payload;
    Append(payload, BytesOf(exit_code_));
    Append(payload, BytesOf(exit_signal_));
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
