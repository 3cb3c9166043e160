// One VM's conversation with its two partners: the engine, on the control socket, and init, on
// vsock.
#ifndef CLEARVM_VMM_SESSION_H_
#define CLEARVM_VMM_SESSION_H_

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "native/base/event_loop.h"
#include "native/vmm/frame_channel.h"
#include "native/vmm/kernel_log.h"
#include "native/vmm/machine.h"
#include "native/vmm/timeline.h"

namespace clearvm::vmm {

// Lives on the main loop's thread, but for PostEnd, PostFirstOutput and PostDrained. The session
// ends (and stops the loop) once: with the container's exit, a failure, STOP, or the engine's going
// away.
class Session {
 public:
  Session(EventLoop* loop, Timeline* timeline, KernelLog* log);

  // The control socket. Without one, events are told in words on stderr.
  Result<void> AttachControl(UniqueFd socket);
  // This side of init's control stream.
  Result<void> AttachAgent(UniqueFd socket);
  // The machine that PAUSE, RESUME and METRICS are about; it outlives the session.
  void AttachMachine(Machine* machine) { machine_ = machine; }
  // What init is to run, where it does not come by the control socket.
  void SetSpec(std::vector<uint8_t> spec);
  // Ends well as soon as init is ready, without giving it anything to run.
  void SetBootOnly() { boot_only_ = true; }
  // Output ports whose last byte must have been written out before the exit is told.
  void AwaitDrain(uint32_t port) { undrained_.insert(port); }

  // The VM ended by itself. Any thread.
  void PostEnd(VmEnd end);
  // Stream events of vsock ports. Any thread.
  void PostDrained(uint32_t port);

  // Tells the engine of a failure and ends.
  void Fail(clearvm_failure kind, uint32_t exit_code, const std::string& message);

  // The process's exit status: the container's (128 + n for a signal), 125 to 127 for failures.
  int exit_status() const { return exit_status_; }

 private:
  void OnControlFrame(const clearvm_frame& frame, std::span<const uint8_t> payload);
  void OnAgentFrame(const clearvm_frame& frame, std::span<const uint8_t> payload);
  void Reply(uint32_t request, int error, std::string_view text);
  void ForwardToAgent(const clearvm_frame& frame, uint16_t type, std::span<const uint8_t> payload,
                      size_t size);
  void SendSpec();
  void SendTimeline();
  void TellExitWhenDrained();
  void Finish(int exit_status);

  EventLoop* loop_;
  Timeline* timeline_;
  KernelLog* log_;
  Machine* machine_ = nullptr;
  std::unique_ptr<FrameChannel> control_;
  std::unique_ptr<FrameChannel> agent_;
  std::vector<uint8_t> spec_;
  bool boot_only_ = false;
  bool have_spec_ = false;
  bool agent_ready_ = false;
  bool started_ = false;
  bool exited_ = false;
  bool finished_ = false;
  uint32_t exit_code_ = 0;
  uint32_t exit_signal_ = 0;
  std::set<uint32_t> undrained_;
  int exit_status_ = 125;
};

}  // namespace clearvm::vmm

#endif  // CLEARVM_VMM_SESSION_H_
