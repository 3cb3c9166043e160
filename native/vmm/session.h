// One VM's conversation with its two partners: the engine, on the control socket, and init, on
// vsock.
#ifndef CLEARVM_VMM_SESSION_H_
#define CLEARVM_VMM_SESSION_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "native/base/event_loop.h"
#include "native/vmm/clients.h"
#include "native/vmm/execs.h"
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
  // A listening socket, whose clients may ask for what does not end the VM; `streams`, which
  // outlive the session, are for their EXECs.
  Result<void> AttachListener(UniqueFd socket, Streams* streams);
  // This side of init's control stream.
  Result<void> AttachAgent(UniqueFd socket);
  // The machine that PAUSE, RESUME and METRICS are about; it outlives the session.
  void AttachMachine(Machine* machine) { machine_ = machine; }
  // What init is to run, where it does not come by the control socket.
  void SetSpec(std::vector<uint8_t> spec);
  // Ends well as soon as init is ready, without giving it anything to run.
  void SetBootOnly() { boot_only_ = true; }
  // Has `on_ready` called as soon as init is ready, on the loop's thread, and nothing else be done.
  void SetOnReady(std::function<void()> on_ready) { on_ready_ = std::move(on_ready); }
  // Has `on_started` called when the container's process runs, on the loop's thread.
  void SetOnStarted(std::function<void()> on_started) { on_started_ = std::move(on_started); }
  // init is ready already: it was so in the template.
  void SetForked();

  // The guest was forked from one with more memory than there is: `end` is the guest-physical
  // address, in bytes, behind its last byte.
  void SetMemoryEnd(uint64_t end) { memory_end_ = end; }
  // The container runs already: it did so in the snapshot. The machine has been started paused, and
  // goes on when there is a spec.
  void SetRestored();
  // What clients are given for SNAPSHOT: fills the file, while the machine is paused at the point
  // (Machine::ArmPoint) and nothing is on its way to init or from it. Returns text for the reply.
  // ERR_DEVICE_BUSY: to be tried again.
  using TakeSnapshot = std::function<Result<std::string>(int file)>;
  void SetTakeSnapshot(TakeSnapshot take) { take_snapshot_ = std::move(take); }
  // What the session knows of the container. Errors: ERR_SESSION_STATE.
  void Save(ByteWriter& out) const;
  Result<void> Restore(ByteReader& in);
  // What became of the template that was named; `why` it was not used.
  void TellOrigin(clearvm_origin origin, std::string_view why);
  // Output ports whose last byte must have been written out before the exit is told.
  void AwaitDrain(uint32_t port) { undrained_.insert(port); }

  // What is done before the container's exit is told: whoever hears of it may remove its files.
  void SetBeforeExit(std::function<void()> act) { before_exit_ = std::move(act); }

  // The VM ended by itself. Any thread.
  void PostEnd(VmEnd end);
  // All that the guest sent to that vsock port is written out. Any thread.
  void PostDrained(uint32_t port);

  // Tells the engine of a failure and ends.
  void Fail(clearvm_failure kind, uint32_t exit_code, const std::string& message);

  // Ends with that exit status.
  void Finish(int exit_status);

  // The process's exit status: the container's (128 + n for a signal), 125 to 127 for failures.
  int exit_status() const { return exit_status_; }

 private:
  void OnControlFrame(const clearvm_frame& frame, std::span<const uint8_t> payload);
  void OnClientFrame(FrameChannel* from, const clearvm_frame& frame,
                     std::span<const uint8_t> payload);
  void OnAgentFrame(const clearvm_frame& frame, std::span<const uint8_t> payload);
  // What a request came to: an errno (0: done), and the result or a message.
  struct Answer {
    int error = 0;
    std::string text = {};
  };
  static void Reply(FrameChannel* to, uint32_t request, const Answer& answer);
  Answer HandleStart(std::span<const uint8_t> payload);
  // What all may ask for.
  Answer Handle(FrameChannel* from, const clearvm_frame& frame, std::span<const uint8_t> payload);
  Answer SetPaused(FrameChannel* from, bool paused);
  // session_snapshot.cc
  void StartSnapshot(FrameChannel* from, uint32_t request);
  void OnPoint();
  Result<std::string> FillSnapshot();
  void EndSnapshot();
  void RenewRestored();
  Answer Exec(FrameChannel* from, uint32_t request, std::span<const uint8_t> payload);
  Answer ForwardToAgent(FrameChannel* from, uint16_t type, std::span<const uint8_t> payload);
  void SendSpec();
  void SendTimeline();
  void TellExitWhenDrained();

  EventLoop* loop_;
  Timeline* timeline_;
  KernelLog* log_;
  Machine* machine_ = nullptr;
  std::unique_ptr<FrameChannel> control_;
  std::unique_ptr<FrameChannel> agent_;
  std::unique_ptr<Clients> clients_;
  std::optional<Execs> execs_;
  bool paused_ = false;
  std::vector<uint8_t> spec_;
  bool boot_only_ = false;
  std::function<void()> on_ready_;
  std::function<void()> on_started_;
  bool have_spec_ = false;
  uint64_t memory_end_ = 0;  // 0: the guest's is where its kernel has found it
  bool agent_ready_ = false;
  bool started_ = false;
  bool exited_ = false;
  bool finished_ = false;
  uint32_t exit_code_ = 0;
  uint32_t exit_signal_ = 0;
  uint32_t exit_flags_ = 0;
  std::set<uint32_t> undrained_;
  bool restored_ = false;
  TakeSnapshot take_snapshot_;
  // One snapshot at a time: who has asked for it, and waits for the point or holds the VM there.
  struct Snapshot {
    FrameChannel* client;
    uint32_t request;
    UniqueFd file;
    bool held = false;
  };
  std::optional<Snapshot> snapshot_;
  std::function<void()> before_exit_;
  int exit_status_ = 125;
};

}  // namespace clearvm::vmm

#endif  // CLEARVM_VMM_SESSION_H_
