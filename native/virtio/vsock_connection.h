// The state of one vsock stream.
#ifndef CLEARVM_VIRTIO_VSOCK_CONNECTION_H_
#define CLEARVM_VIRTIO_VSOCK_CONNECTION_H_

#include <cstdint>
#include <string>

#include "native/virtio/host_fd.h"
#include "native/virtio/vsock_packet.h"

namespace clearvm::virtio {

// What we let the guest have under way on a connection: all of it may have to be buffered. Ports
// that were given as fds carry the container's stdio and there are few; Unix connections are as
// many as the guest likes.
inline constexpr uint32_t kPortBuffer = 256 * 1024;
inline constexpr uint32_t kUnixBuffer = 64 * 1024;

// The least and the most bytes asked of a host fd at a time.
inline constexpr uint32_t kMinRead = 4 * 1024;
inline constexpr uint32_t kMaxRead = 64 * 1024;

struct VsockConnection {
  enum class State : uint8_t {
    kHandshake,  // a Unix client has yet to say where to; the guest knows nothing of it
    kRequested,  // REQUEST sent (or about to be), no answer yet
    kEstablished,
    kFlushing,  // over for the guest; the host has yet to take what is buffered
  };
  // Packets that are due to the guest.
  enum Pending : uint8_t {
    kRequest = 1,
    kResponse = 2,
    kCreditUpdate = 4,
    kCreditRequest = 8,
    kShutdown = 16,
  };

  VsockConnection(uint64_t id_, uint32_t buffer_size)
      : id(id_), buf_alloc(buffer_size), buffer(buffer_size) {}

  static uint64_t Key(uint32_t guest_port, uint32_t host_port) {
    return uint64_t{guest_port} << 32 | host_port;
  }
  uint64_t key() const { return Key(guest_port, host_port); }

  // Bytes that the guest has room for. The counters run modulo 2^32, and the guest's may be
  // nonsense.
  uint32_t Credit() const {
    const uint32_t under_way = sent - peer_fwd_cnt;
    return under_way >= peer_buf_alloc ? 0 : peer_buf_alloc - under_way;
  }
  // Bytes that the guest may send.
  uint32_t Window() const { return buf_alloc - (received - forwarded); }

  // Whether there is something to read for the guest, and the guest wants it.
  bool WantsToRead() const { return state == State::kEstablished && in.valid() && in_ready; }

  const uint64_t id;
  uint32_t guest_port = 0;
  uint32_t host_port = 0;
  State state = State::kEstablished;
  uint8_t pending = 0;
  bool queued = false;        // waits for its turn to send to the guest
  bool given_port = false;    // one of VsockOptions::ports
  bool foreign = false;       // of AddPort: others may have the same file descriptions
  bool replaceable = false;   // as VsockPort's; those of AddPort and all others are
  bool refuse_bytes = false;  // there never was a host fd for them
  bool seen_bytes = false;

  HostFd in;                      // host to guest
  HostFd out;                     // guest to host
  bool in_ready = false;          // reading `in` may give something
  uint32_t read_size = kMinRead;  // what to ask of it next

  uint32_t guest_shutdown = 0;  // kShutdown* flags that the guest has sent
  uint32_t host_shutdown = 0;   // and those that hold for us

  // Guest to host. received - forwarded is what `buffer` holds, never more than buf_alloc.
  const uint32_t buf_alloc;
  uint32_t received = 0;
  uint32_t forwarded = 0;
  uint32_t forwarded_told = 0;  // what the guest knows of `forwarded`
  ByteRing buffer;

  // Host to guest.
  uint32_t sent = 0;
  uint32_t peer_buf_alloc = 0;
  uint32_t peer_fwd_cnt = 0;
  bool credit_requested = false;

  std::string request;  // kHandshake: what the client has said so far
};

}  // namespace clearvm::virtio

#endif  // CLEARVM_VIRTIO_VSOCK_CONNECTION_H_
