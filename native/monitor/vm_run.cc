#include "native/monitor/vm_run.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>

namespace clearvm::monitor {
namespace {

constexpr size_t kOutputBuffer = 32 * 1024;  // bytes; below CLEARVM_MONITOR_FRAME_MAX
constexpr int kDrainRounds = 1000;  // frames and output that a dead VMM can have left are few

Result<UniqueFd> OpenGuestFile(const std::string& path, const char* code, const char* what) {
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return SystemError(code, "open", std::string(what) + " " + path);
  return file;
}

// `ours` does not block; `theirs` is as any pipe.
Result<void> MakePipe(UniqueFd& read, UniqueFd& write, bool we_read) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return SystemError("ERR_PIPE", "pipe2", "cannot make a pipe");
  read = UniqueFd(ends[0]);
  write = UniqueFd(ends[1]);
  if (::fcntl(ends[we_read ? 0 : 1], F_SETFL, O_NONBLOCK) != 0) {
    return SystemError("ERR_PIPE", "fcntl", "cannot make a pipe");
  }
  return {};
}

uint32_t Uint32At(std::span<const uint8_t> payload, size_t index) {
  uint32_t value = 0;
  if (payload.size() >= 4 * (index + 1)) std::memcpy(&value, payload.data() + 4 * index, 4);
  return value;
}

}  // namespace

Result<void> VmRun::MakeStreams(const Request& request, std::vector<int>& fds,
                                std::vector<UniqueFd>& theirs) {
  const auto give = [&](clearvm_vmm_fd number, UniqueFd fd) {
    fds[number] = fd.get();
    theirs.push_back(std::move(fd));
  };
  if ((request.stdio & CLEARVM_STDIO_TERMINAL) != 0) {
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
      return SystemError("ERR_PIPE", "socketpair", "cannot make the terminal's stream");
    }
    output_[0] = UniqueFd(pair[0]);
    stdin_ = UniqueFd(::fcntl(pair[0], F_DUPFD_CLOEXEC, 3));
    if (!stdin_.valid() || ::fcntl(pair[0], F_SETFL, O_NONBLOCK) != 0) {
      return SystemError("ERR_PIPE", "fcntl", "cannot make the terminal's stream");
    }
    fds[CLEARVM_VMM_FD_STDIN] = pair[1];
    give(CLEARVM_VMM_FD_STDOUT, UniqueFd(pair[1]));
    return {};
  }
  for (int stream = 0; stream < 2; stream++) {
    UniqueFd write;
    CLEARVM_RETURN_IF_ERROR(MakePipe(output_[stream], write, true));
    give(stream == 0 ? CLEARVM_VMM_FD_STDOUT : CLEARVM_VMM_FD_STDERR, std::move(write));
  }
  if ((request.stdio & CLEARVM_STDIO_STDIN) == 0) return {};
  UniqueFd read;
  CLEARVM_RETURN_IF_ERROR(MakePipe(read, stdin_, false));
  give(CLEARVM_VMM_FD_STDIN, std::move(read));
  return {};
}

Result<std::unique_ptr<VmRun>> VmRun::Start(const Request& request,
                                            const std::vector<std::string>& arguments, int listener,
                                            EventLoop* loop, Handlers handlers) {
  std::unique_ptr<VmRun> run(new VmRun(loop, std::move(handlers)));
  VmRun* self = run.get();
  CLEARVM_ASSIGN(UniqueFd kernel,
                 OpenGuestFile(request.kernel, "ERR_KERNEL_MISSING", "the guest kernel"));
  CLEARVM_ASSIGN(UniqueFd initrd,
                 OpenGuestFile(request.initrd, "ERR_INITRD_MISSING", "the initramfs"));
  std::vector<int> fds(CLEARVM_VMM_FD_LISTENER + 1, -1);
  std::vector<UniqueFd> theirs;
  CLEARVM_RETURN_IF_ERROR(run->MakeStreams(request, fds, theirs));
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
    return SystemError("ERR_PIPE", "socketpair", "cannot make the control socket");
  }
  UniqueFd ours(pair[0]);
  const UniqueFd control(pair[1]);
  fds[CLEARVM_VMM_FD_CONTROL] = control.get();
  fds[CLEARVM_VMM_FD_LISTENER] = listener;
  fds[CLEARVM_VMM_FD_KERNEL] = kernel.get();
  fds[CLEARVM_VMM_FD_INITRD] = initrd.get();
  CLEARVM_ASSIGN(run->child_,
                 StartChild({request.vmm, arguments, std::move(fds), /*namespaces=*/true}));
  CLEARVM_ASSIGN(run->control_,
                 vmm::FrameChannel::Create(
                     std::move(ours), CLEARVM_FRAME_MAX, loop,
                     {[self](const clearvm_frame& frame, std::span<const uint8_t> payload) {
                        self->OnControl(frame, payload);
                      },
                      // Its process ends next.
                      [](const Error&) {}}));
  run->control_->Send(CLEARVM_CONTROL_START, 0, request.spec);
  CLEARVM_RETURN_IF_ERROR(
      loop->Add(run->child_.pidfd.get(), EPOLLIN, [self](uint32_t) { self->OnProcessEnd(); }));
  for (int stream = 0; stream < 2; stream++) {
    if (!run->output_[stream].valid()) continue;
    CLEARVM_RETURN_IF_ERROR(loop->Add(run->output_[stream].get(), EPOLLIN,
                                      [self, stream](uint32_t) { self->ReadOutput(stream); }));
  }
  return run;
}

VmRun::~VmRun() {
  if (child_.pidfd.valid() && !ended_) {
    Destroy();
    siginfo_t info;
    ::waitid(P_PIDFD, static_cast<id_t>(child_.pidfd.get()), &info, WEXITED | __WALL);
    loop_->Remove(child_.pidfd.get());
  }
  for (UniqueFd& fd : output_) CloseFd(fd);
  CloseFd(stdin_);
}

void VmRun::CloseFd(UniqueFd& fd) {
  if (!fd.valid()) return;
  loop_->Remove(fd.get());
  fd.reset();
}

void VmRun::OnControl(const clearvm_frame& frame, std::span<const uint8_t> payload) {
  switch (frame.type) {
    case CLEARVM_CONTROL_ORIGIN:
    case CLEARVM_CONTROL_TIMELINE:
      if (!started_) handlers_.on_report(frame.type, payload);
      return;
    case CLEARVM_CONTROL_STARTED:
      if (started_ || settled_) return;
      started_ = true;
      handlers_.on_report(frame.type, payload);
      return handlers_.on_started();
    case CLEARVM_CONTROL_REPLY:
      if (payload.size() < 4 || frame.process == 0) return;
      return handlers_.on_reply(
          frame.process, static_cast<int>(Uint32At(payload, 0)),
          {reinterpret_cast<const char*>(payload.data()) + 4, payload.size() - 4});
    case CLEARVM_CONTROL_EXIT: {
      if (settled_ || payload.size() < 12) return;
      settled_ = true;
      end_.oom = (Uint32At(payload, 2) & CLEARVM_EXIT_OOM) != 0;
      end_.signal = Uint32At(payload, 1) & 0x7f;
      end_.exit_code =
          static_cast<int>(end_.signal != 0 ? 128 + end_.signal : Uint32At(payload, 0) & 0xff);
      // All output is out, and no file is touched any more: what is left is for the kernel to free.
      return Destroy();
    }
    case CLEARVM_CONTROL_FAILURE: {
      if (settled_ || payload.size() < 12) return;
      settled_ = true;
      const size_t length = std::min<size_t>(Uint32At(payload, 2), payload.size() - 12);
      end_.exit_code = static_cast<int>(Uint32At(payload, 1) & 0xff);
      end_.error.assign(reinterpret_cast<const char*>(payload.data()) + 12, length);
      if (!started_) handlers_.on_report(frame.type, payload);
      return;
    }
    default:
      return;
  }
}

void VmRun::Signal(uint32_t request, uint32_t number) {
  control_->Send(CLEARVM_CONTROL_SIGNAL, request, vmm::BytesOf(number));
}

void VmRun::Resize(uint32_t request, std::span<const uint8_t> size) {
  control_->Send(CLEARVM_CONTROL_RESIZE, request, size);
}

void VmRun::Resume() { control_->Send(CLEARVM_CONTROL_RESUME, 0, {}); }

void VmRun::Destroy() {
  if (ended_) return;
  destroyed_ = true;
  ::syscall(SYS_pidfd_send_signal, child_.pidfd.get(), SIGKILL, nullptr, 0);
}

void VmRun::SetReading(bool reading) {
  if (reading_ == reading) return;
  reading_ = reading;
  for (const UniqueFd& fd : output_) {
    if (fd.valid()) (void)loop_->Modify(fd.get(), reading ? EPOLLIN : 0u);
  }
}

bool VmRun::ReadOutput(int stream) {
  UniqueFd& fd = output_[stream];
  if (!fd.valid()) return false;
  std::array<uint8_t, kOutputBuffer> buffer;
  const ssize_t got = ::read(fd.get(), buffer.data(), buffer.size());
  if (got > 0) {
    handlers_.on_output(stream, std::span<const uint8_t>(buffer).first(static_cast<size_t>(got)));
    return true;
  }
  if (got < 0 && errno == EINTR) return true;
  if (got == 0 || errno != EAGAIN) CloseFd(fd);
  return false;
}

void VmRun::WriteStdin(std::span<const uint8_t> bytes) {
  if (!stdin_.valid() || stdin_closing_) return;
  stdin_queue_.insert(stdin_queue_.end(), bytes.begin(), bytes.end());
  FlushStdin();
}

void VmRun::CloseStdin() {
  // A terminal has no end-of-file but the character for it.
  if (output_[1].valid() || !output_[0].valid()) stdin_closing_ = true;
  FlushStdin();
}

void VmRun::FlushStdin() {
  if (!stdin_.valid()) return;
  size_t sent = 0;
  while (sent < stdin_queue_.size()) {
    const ssize_t wrote =
        ::write(stdin_.get(), stdin_queue_.data() + sent, stdin_queue_.size() - sent);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0 && errno == EAGAIN) break;
    if (wrote < 0) {
      // The command has closed its input.
      stdin_queue_.clear();
      CloseFd(stdin_);
      return handlers_.on_stdin_drained();
    }
    sent += static_cast<size_t>(wrote);
  }
  stdin_queue_.erase(stdin_queue_.begin(), stdin_queue_.begin() + static_cast<ptrdiff_t>(sent));
  if (stdin_queue_.empty()) {
    if (stdin_watched_) loop_->Remove(stdin_.get());
    stdin_watched_ = false;
    if (stdin_closing_) stdin_.reset();
    if (sent > 0) handlers_.on_stdin_drained();
  } else if (!stdin_watched_) {
    stdin_watched_ = loop_->Add(stdin_.get(), EPOLLOUT, [this](uint32_t) { FlushStdin(); }).ok();
  }
}

void VmRun::OnProcessEnd() {
  siginfo_t info{};
  if (::waitid(P_PIDFD, static_cast<id_t>(child_.pidfd.get()), &info, WEXITED | WNOHANG | __WALL) !=
          0 ||
      info.si_pid == 0) {
    return;
  }
  ended_ = true;
  loop_->Remove(child_.pidfd.get());
  // Its last frames and output lie in the kernel's buffers.
  control_->ReadAll();
  for (int stream = 0; stream < 2; stream++) {
    for (int round = 0; round < kDrainRounds && ReadOutput(stream);) round++;
  }
  if (!settled_ && destroyed_) {
    end_.exit_code = 128 + SIGKILL;
    end_.signal = SIGKILL;
  } else if (!settled_ && info.si_code == CLD_EXITED) {
    end_.exit_code = 125;
    end_.error = "the VMM ended with status " + std::to_string(info.si_status) + " without a word";
  } else if (!settled_) {
    end_.exit_code = 128 + info.si_status;
    end_.signal = static_cast<uint32_t>(info.si_status);
    end_.error = "the VMM was killed by signal " + std::to_string(info.si_status);
  }
  // It may be deleted by this.
  handlers_.on_end(RunEnd(end_));
}

}  // namespace clearvm::monitor
