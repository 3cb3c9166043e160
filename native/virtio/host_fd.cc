#include "native/virtio/host_fd.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cstdio>

namespace clearvm::virtio {
namespace {

constexpr unsigned kMemoryMajor = 1;  // /dev/null, /dev/zero, ...
// A terminal is writable from 256 free bytes on.
constexpr size_t kTerminalPiece = 256;

bool IsPtyMaster(const struct stat& status) {
  return S_ISCHR(status.st_mode) && status.st_rdev == makedev(5, 2);
}

// The same pipe or terminal, with a file description of our own.
UniqueFd OpenAgain(int fd, HostFd::Direction direction, int proc_self_fd) {
  char path[32];
  std::snprintf(path, sizeof path, proc_self_fd < 0 ? "/proc/self/fd/%d" : "%d", fd);
  const int mode = direction == HostFd::Direction::kRead ? O_RDONLY : O_WRONLY;
  return UniqueFd(::openat(proc_self_fd < 0 ? AT_FDCWD : proc_self_fd, path,
                           mode | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
}

}  // namespace

Result<HostFd> HostFd::Adopt(UniqueFd fd, Direction direction) {
  return Make(std::move(fd), direction, -1, false);
}

Result<HostFd> HostFd::AdoptForeign(UniqueFd fd, Direction direction, int proc_self_fd) {
  return Make(std::move(fd), direction, proc_self_fd, true);
}

Result<HostFd> HostFd::Make(UniqueFd fd, Direction direction, int proc_self_fd, bool foreign) {
  struct stat status;
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0 || ::fstat(fd.get(), &status) != 0) {
    return SystemError(
        "ERR_VSOCK_CONFIG", "fstat",
        "file descriptor " + std::to_string(fd.get()) + " is not usable for a vsock port");
  }
  if (S_ISSOCK(status.st_mode)) return HostFd(std::move(fd), Kind::kSocket, SIZE_MAX);
  if ((flags & O_NONBLOCK) != 0 && !foreign) {
    return HostFd(std::move(fd), Kind::kNonBlocking, SIZE_MAX);
  }
  const bool pipe = S_ISFIFO(status.st_mode);
  // isatty(3) would say the same of a master, and opening one again makes another terminal.
  const bool terminal = S_ISCHR(status.st_mode) && !IsPtyMaster(status) && ::isatty(fd.get()) != 0;
  if (pipe || terminal) {
    UniqueFd again = OpenAgain(fd.get(), direction, proc_self_fd);
    if (again.valid()) return HostFd(std::move(again), Kind::kNonBlocking, SIZE_MAX);
    return HostFd(std::move(fd), Kind::kPolled, pipe ? PIPE_BUF : kTerminalPiece);
  }
  if (S_ISREG(status.st_mode) || S_ISBLK(status.st_mode) ||
      (S_ISCHR(status.st_mode) && major(status.st_rdev) == kMemoryMajor)) {
    return HostFd(std::move(fd), Kind::kDirect, SIZE_MAX);
  }
  return HostFd(std::move(fd), Kind::kPolled, kTerminalPiece);
}

HostFd HostFd::Socket(UniqueFd fd) { return HostFd(std::move(fd), Kind::kSocket, SIZE_MAX); }

HostFd& HostFd::operator=(HostFd&& other) noexcept {
  if (this == &other) return *this;
  Close();
  fd_ = std::move(other.fd_);
  kind_ = other.kind_;
  piece_ = other.piece_;
  loop_ = std::exchange(other.loop_, nullptr);
  return *this;
}

bool HostFd::Ready(short events) const {
  pollfd poll{fd_.get(), events, 0};
  return ::poll(&poll, 1, 0) > 0;
}

bool HostFd::HungUp() const {
  pollfd poll{fd_.get(), 0, 0};
  return ::poll(&poll, 1, 0) > 0 && (poll.revents & POLLHUP) != 0;
}

ssize_t HostFd::Read(const iovec* buffers, size_t count) {
  ssize_t got;
  do {
    if (kind_ == Kind::kSocket) {
      msghdr message{};
      message.msg_iov = const_cast<iovec*>(buffers);
      message.msg_iovlen = count;
      got = ::recvmsg(fd_.get(), &message, MSG_DONTWAIT);
    } else {
      if (kind_ == Kind::kPolled && !Ready(POLLIN)) return -EAGAIN;
      got = ::readv(fd_.get(), buffers, static_cast<int>(count));
    }
  } while (got < 0 && errno == EINTR);
  return got < 0 ? -errno : got;
}

ssize_t HostFd::Write(const iovec* buffers, size_t count) {
  iovec piece;
  if (piece_ != SIZE_MAX) {
    piece = {buffers[0].iov_base, std::min(buffers[0].iov_len, piece_)};
    buffers = &piece;
    count = 1;
  }
  ssize_t wrote;
  do {
    if (kind_ == Kind::kSocket) {
      msghdr message{};
      message.msg_iov = const_cast<iovec*>(buffers);
      message.msg_iovlen = count;
      wrote = ::sendmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    } else {
      if (kind_ == Kind::kPolled && !Ready(POLLOUT)) return -EAGAIN;
      wrote = ::writev(fd_.get(), buffers, static_cast<int>(count));
    }
  } while (wrote < 0 && errno == EINTR);
  return wrote < 0 ? -errno : wrote;
}

bool HostFd::Arm(EventLoop* loop, uint32_t events, std::function<void(uint32_t)> handler) {
  // One-shot: an fd that nobody wants to hear of must not wake the loop, and hang-ups cannot be
  // masked otherwise.
  events |= EPOLLONESHOT;
  if (loop_ != nullptr) return loop_->Modify(fd_.get(), events).ok();
  if (kind_ == Kind::kDirect || !loop->Add(fd_.get(), events, std::move(handler)).ok())
    return false;
  loop_ = loop;
  return true;
}

void HostFd::Close(int how) {
  if (!fd_.valid()) return;
  if (loop_ != nullptr) loop_->Remove(fd_.get());
  loop_ = nullptr;
  if (how >= 0 && kind_ == Kind::kSocket) ::shutdown(fd_.get(), how);
  fd_.reset();
}

}  // namespace clearvm::virtio
