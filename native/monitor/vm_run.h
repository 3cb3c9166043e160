// One run of a container: its VMM, from the spawn to the end.
#ifndef CLEARVM_MONITOR_VM_RUN_H_
#define CLEARVM_MONITOR_VM_RUN_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "native/base/child.h"
#include "native/base/event_loop.h"
#include "native/base/fd.h"
#include "native/monitor/request.h"
#include "native/protocol/control.h"
#include "native/vmm/frame_channel.h"

namespace clearvm::monitor {

// How a run ended.
struct RunEnd {
  int exit_code = 0;    // 0 to 255, 128 + n for signal n
  uint32_t signal = 0;  // that ended the command; 0: none
  bool oom = false;     // its kernel has killed a process for want of memory
  std::string error;    // why the VM ended otherwise than by the command's exit; empty: it did not
};

class VmRun {
 public:
  struct Handlers {
    std::function<void()> on_started;
    // ORIGIN, TIMELINE, STARTED and FAILURE as they came.
    std::function<void(uint16_t type, std::span<const uint8_t> payload)> on_report;
    // What the VMM answers to a request of Signal or Resize.
    std::function<void(uint32_t request, int error, std::string_view message)> on_reply;
    // Stream 0 is stdout or the terminal, 1 is stderr.
    std::function<void(int stream, std::span<const uint8_t> bytes)> on_output;
    std::function<void()> on_stdin_drained;
    // The VMM's process is gone, and all output has been handed over. Called once, last.
    std::function<void(const RunEnd&)> on_end;
  };

  // Spawns the VMM with these of the request's arguments, and sends it the spec. `listener`: the
  // socket at which it listens. Errors: ERR_SPAWN, ERR_SPAWN_EXEC, ERR_KERNEL_MISSING,
  // ERR_INITRD_MISSING, ERR_PIPE.
  static Result<std::unique_ptr<VmRun>> Start(const Request& request,
                                              const std::vector<std::string>& arguments,
                                              int listener, EventLoop* loop, Handlers handlers);
  ~VmRun();

  pid_t pid() const { return child_.pid; }
  bool started() const { return started_; }
  bool ended() const { return ended_; }

  // Requests to the VMM; `request` comes back with the reply.
  void Signal(uint32_t request, uint32_t number);
  void Resize(uint32_t request, std::span<const uint8_t> size);
  // Has a paused VM go on: a signal must be able to end it.
  void Resume();
  // Pulls the plug. The end is reported as by SIGKILL.
  void Destroy();

  // Queues bytes for stdin; dropped where there is none.
  void WriteStdin(std::span<const uint8_t> bytes);
  void CloseStdin();
  size_t stdin_queued() const { return stdin_queue_.size(); }
  // Whether output is read; what is not read waits in the pipe, and then in the container.
  void SetReading(bool reading);

 private:
  VmRun(EventLoop* loop, Handlers handlers) : loop_(loop), handlers_(std::move(handlers)) {}
  Result<void> MakeStreams(const Request& request, std::vector<int>& fds,
                           std::vector<UniqueFd>& theirs);
  void OnControl(const clearvm_frame& frame, std::span<const uint8_t> payload);
  // Reads at most a buffer; false: there is nothing (more).
  bool ReadOutput(int stream);
  void FlushStdin();
  void OnProcessEnd();
  void CloseFd(UniqueFd& fd);

  EventLoop* loop_;
  Handlers handlers_;
  Child child_{};
  std::unique_ptr<vmm::FrameChannel> control_;
  UniqueFd output_[2];
  UniqueFd stdin_;  // the terminal's own descriptor where there is one
  bool stdin_closing_ = false;
  bool stdin_watched_ = false;
  std::vector<uint8_t> stdin_queue_;
  bool reading_ = true;
  bool started_ = false;
  bool ended_ = false;
  bool settled_ = false;    // end_ says how it ended
  bool destroyed_ = false;  // by us
  RunEnd end_;
};

}  // namespace clearvm::monitor

#endif  // CLEARVM_MONITOR_VM_RUN_H_
