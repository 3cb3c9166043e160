// virtio-vsock (virtio 1.2 section 5.10): streams between the guest and file descriptors of the
// host.
#ifndef CLEARVM_VIRTIO_VSOCK_H_
#define CLEARVM_VIRTIO_VSOCK_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "native/base/event_loop.h"
#include "native/base/fd.h"
#include "native/virtio/device.h"
#include "native/virtio/host_fd.h"

namespace clearvm::virtio {

// What answers when the guest connects to a host port. Both fds may be the same description (two
// dups), either may be missing: without `read` the guest gets end-of-file at once, without `write`
// its bytes are refused (RST). Closing: when the guest shuts its sending side down, everything
// received is written out and `write` is closed (shutdown(SHUT_WR) first where it is a socket);
// end-of-file on `read` becomes a VSOCK SHUTDOWN(SEND) to the guest. Pipes, sockets, terminals and
// regular files all work, and are never switched to non-blocking mode in a way that other holders
// of the same open file description would see.
struct VsockPort {
  uint32_t port;
  UniqueFd read;   // host to guest
  UniqueFd write;  // guest to host
  // In a snapshot, what is on its way on it is the host's already: it is not repeated where the
  // device goes on. Otherwise the device is busy while there is something.
  bool replaceable = false;
};

struct VsockOptions {
  uint64_t guest_cid = 3;
  // Ports served by a given pair of fds: one connection each, ever; a second is refused (RST).
  std::vector<VsockPort> ports;
  // Where other connections meet the host, as Firecracker's: a listening Unix socket (invalid:
  // none) on which a client says "CONNECT port\n" and is answered "OK host_port\n"; the guest's
  // connection to port P goes to the Unix socket `unix_path` + "_P" (empty: refused).
  UniqueFd unix_listener;
  std::string unix_path;
  // Called (loop thread) the first time the guest sends bytes to `port`, and when all that the
  // guest sent to it before its end-of-file has been written out to the host (or can never be). May
  // be empty.
  std::function<void(uint32_t port)> on_first_bytes;
  std::function<void(uint32_t port)> on_drained;
};

// The device, whose ports may come and go while it runs.
class Vsock : public Device {
 public:
  enum class PortChange {
    kRelease,  // nobody may connect any more; a connection stays
    kReset,    // nor does a connection stay, whatever is on its way
    kDiscard,  // the host sends no more, without an end-of-file, and what the guest sends is lost
  };

  // On the loop's thread. A port as VsockPort, for a guest port below `guest_limit`: what a guest's
  // kernel reserves to the privileged. A port that is there already is an error of the caller's.
  virtual void AddPort(uint32_t port, uint32_t guest_limit, HostFd read, HostFd write) = 0;
  // Of a port of AddPort; one that is gone is left alone. Where nobody has connected, or by a
  // kReset, it is drained.
  virtual void ChangePort(uint32_t port, PortChange change) = 0;
};

// Ports in `options` must be distinct. Call it before the jail is entered: pipes and terminals are
// opened a second time through /proc/self/fd. The callbacks must not destroy the device. SIGPIPE
// must be ignored. Errors: ERR_VSOCK_CONFIG.
Result<std::unique_ptr<Vsock>> CreateVsock(VsockOptions options, EventLoop* loop);

}  // namespace clearvm::virtio

#endif  // CLEARVM_VIRTIO_VSOCK_H_
