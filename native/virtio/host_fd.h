// One direction of a host file descriptor, read or written without ever blocking the caller.
#ifndef CLEARVM_VIRTIO_HOST_FD_H_
#define CLEARVM_VIRTIO_HOST_FD_H_

#include <poll.h>
#include <sys/types.h>
#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <utility>

#include "native/base/event_loop.h"
#include "native/base/fd.h"
#include "native/base/result.h"

namespace clearvm::virtio {

// Others may hold the same open file description, so its O_NONBLOCK is never touched. Sockets are
// used with MSG_DONTWAIT; pipes and terminals are opened a second time; what cannot be is asked
// with poll(2) before each call, and written to in pieces that then fit; files and memory devices
// never block for long.
//
// Belongs to one thread, its loop's.
class HostFd {
 public:
  enum class Direction { kRead, kWrite };

  HostFd() = default;
  // Takes `fd` over. Opens /proc/self/fd/N, so it must run before a jail hides that. Errors:
  // ERR_VSOCK_CONFIG when `fd` is not open.
  static Result<HostFd> Adopt(UniqueFd fd, Direction direction);
  // For one that somebody else has passed on, who may change its file description at any time: that
  // is not relied on where it can be helped. `proc_self_fd` is an open /proc/self/fd, for use in a
  // jail.
  static Result<HostFd> AdoptForeign(UniqueFd fd, Direction direction, int proc_self_fd);
  // For a stream socket that this process has made itself.
  static HostFd Socket(UniqueFd fd);

  HostFd(HostFd&& other) noexcept { *this = std::move(other); }
  // Neither side may be armed, nor have been.
  HostFd& operator=(HostFd&& other) noexcept;
  ~HostFd() { Close(); }

  bool valid() const { return fd_.valid(); }
  bool is_socket() const { return kind_ == Kind::kSocket; }
  int get() const { return fd_.get(); }

  // Bytes moved; 0: end-of-file; -EAGAIN: call Arm; another negative errno. `count`: 1 to IOV_MAX.
  ssize_t Read(const iovec* buffers, size_t count);
  ssize_t Write(const iovec* buffers, size_t count);
  // Whether Read would not say -EAGAIN.
  bool Readable() const { return Ready(POLLIN); }
  // Whether the other end of the socket is gone altogether, not only its sending side.
  bool HungUp() const;

  // Has `handler` called once, when one of `events` (0: hang-up only) holds; the first handler
  // stays. False: this kind of file is always ready, and nothing will be called.
  bool Arm(EventLoop* loop, uint32_t events, std::function<void(uint32_t)> handler);

  // Closes the fd; a socket is shut down in the direction `how` (SHUT_*, -1: not at all) first.
  void Close(int how = -1);

 private:
  enum class Kind : uint8_t {
    kSocket,
    kNonBlocking,  // its file description is non-blocking
    kPolled,       // may block: poll(2) first
    kDirect,       // never blocks
  };
  HostFd(UniqueFd fd, Kind kind, size_t piece) : fd_(std::move(fd)), kind_(kind), piece_(piece) {}
  static Result<HostFd> Make(UniqueFd fd, Direction direction, int proc_self_fd, bool foreign);
  bool Ready(short events) const;

  UniqueFd fd_;
  Kind kind_ = Kind::kDirect;
  size_t piece_ = SIZE_MAX;    // the most bytes that one write may have
  EventLoop* loop_ = nullptr;  // where it is registered
};

}  // namespace clearvm::virtio

#endif  // CLEARVM_VIRTIO_HOST_FD_H_
