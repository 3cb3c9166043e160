// The vsock device's inside: vsock.cc is its side towards the guest, vsock_host.cc that towards the
// host.
#ifndef CLEARVM_VIRTIO_VSOCK_DEVICE_H_
#define CLEARVM_VIRTIO_VSOCK_DEVICE_H_

#include <deque>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "native/virtio/vsock.h"
#include "native/virtio/vsock_connection.h"

namespace clearvm::virtio {

// Connections alive at once, those that only flush included; more are refused.
inline constexpr size_t kMaxConnections = 1024;
// Resets that wait for receive buffers; when there are more, the guest's packets wait too.
inline constexpr size_t kMaxReplies = 256;
// Host ports that host-initiated connections come from.
inline constexpr uint32_t kFirstEphemeralPort = 1u << 30;

class VsockDevice final : public Vsock {
 public:
  struct Port {
    uint32_t number;
    HostFd read;
    HostFd write;
    bool taken = false;
    bool foreign = false;               // of AddPort
    uint32_t guest_limit = UINT32_MAX;  // guest ports that may connect to it lie below
    bool discards = false;
    bool replaceable = false;
  };

  VsockDevice(VsockOptions options, std::vector<Port> ports, EventLoop* loop);
  ~VsockDevice() override;

  uint32_t device_id() const override { return kDeviceIdVsock; }
  uint64_t features() const override;
  std::span<const uint16_t> queue_max_sizes() const override;
  void ReadConfig(uint32_t offset, std::span<uint8_t> out) const override;
  Result<void> Activate(uint64_t features, std::vector<Queue> queues,
                        Interrupt* interrupt) override;
  void HandleQueue(size_t index) override;
  void Reset() override;
  QueuePosition Position(size_t index) const override;
  Result<void> Save(ByteWriter& out) const override;
  Result<void> Restore(ByteReader& in) override;
  void AddPort(uint32_t port, uint32_t guest_limit, HostFd read, HostFd write) override;
  void ChangePort(uint32_t port, PortChange change) override;

 private:
  using Connection = VsockConnection;
  using State = VsockConnection::State;
  // A RST that belongs to no connection (any more).
  struct Reply {
    uint64_t src_cid;
    uint32_t src_port;
    uint32_t dst_port;
    uint16_t type;
  };

  // --- vsock.cc: the guest's side ---
  void HandleTransmit();
  void HandlePacket(const Chain& chain);
  void HandleRequest(const VsockHeader& header);
  void HandleConnectionPacket(Connection* connection, const VsockHeader& header,
                              const Chain& chain);
  void HandleShutdown(Connection* connection, uint32_t flags);
  void ReplyReset(const VsockHeader& header);
  // Sends what is due to the guest, as far as its receive buffers go, and signals both queues.
  void Pump();
  bool SendDue();
  bool SendNext(Connection* connection);
  bool SendHeader(const VsockHeader& header);
  bool SendBytes(Connection* connection);
  VsockHeader Header(Connection* connection, VsockOp op);
  // Has the connection's due packets sent at the next Pump.
  void Enqueue(Connection* connection);
  void SetPending(Connection* connection, uint8_t packets);
  void Break(QueueFault fault);

  // --- vsock_host.cc: the host's side ---
  Connection* AddConnection(uint32_t buffer_size);
  Connection* Find(uint32_t guest_port, uint32_t host_port);
  bool ConnectHost(uint32_t guest_port, uint32_t host_port, Connection** connection);
  void Discard(Connection* connection);
  UniqueFd ConnectUnix(uint32_t host_port) const;
  void HandleBytes(Connection* connection, const Chain& chain, uint32_t length);
  void Forwarded(Connection* connection, uint32_t bytes);
  void Flush(Connection* connection);
  void AwaitReadable(Connection* connection);
  void OnReadable(uint64_t id);
  bool AwaitWritable(Connection* connection, uint32_t events);
  void AwaitHangUp(Connection* connection);
  void OnWritable(uint64_t id, uint32_t events);
  // The host sends no more; takes no more; the guest's bytes are all out, or never will be.
  void HostEndOfFile(Connection* connection);
  void HostRefuses(Connection* connection);
  void FinishOut(Connection* connection);
  // The connection is over for the guest. What it sent is still written out. `connection` may be
  // gone after it.
  void Detach(Connection* connection);
  void DetachWithReset(Connection* connection);
  void Destroy(Connection* connection);
  void ArmListener();
  void Accept();
  void ReadHandshake(Connection* connection);
  void CompleteHandshake(Connection* connection);
  bool ParseHandshake(Connection* connection);

  // --- vsock_state.cc ---
  bool AtRest(const Connection& connection) const;
  Result<void> RestorePorts(ByteReader& in);
  Result<void> RestoreConnections(ByteReader& in);

  VsockOptions options_;
  std::vector<Port> ports_;
  EventLoop* const loop_;
  bool listener_added_ = false;
  bool listener_armed_ = false;

  Interrupt* interrupt_ = nullptr;
  bool active_ = false;
  Queue receive_;
  Queue transmit_;
  bool transmit_waits_ = false;  // for room in replies_

  std::unordered_map<uint64_t, std::unique_ptr<Connection>> connections_;  // by id
  std::unordered_map<uint64_t, Connection*> by_ports_;  // what the guest knows of
  uint64_t next_id_ = 1;
  uint32_t next_host_port_ = kFirstEphemeralPort;
  std::deque<uint64_t> runnable_;  // ids of connections that have something due
  std::deque<Reply> replies_;

  // Storage that is kept from one use to the next.
  Chain chain_;
  std::vector<Chain> batch_;
  std::vector<size_t> batch_room_;
  std::vector<iovec> slices_;
};

}  // namespace clearvm::virtio

#endif  // CLEARVM_VIRTIO_VSOCK_DEVICE_H_
