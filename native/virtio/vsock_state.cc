// A vsock device's connections in a snapshot. A connection's credits (virtio 1.2 section 5.10.6.3)
// go on where they were, so that the guest notices nothing. What was read from the host, or is
// still to be written there, is the old device's: the bytes of a stream that can be replaced are
// not repeated.
#include "native/virtio/vsock_device.h"

namespace clearvm::virtio {
namespace {

constexpr size_t kReceive = 0;
constexpr size_t kTransmit = 1;

struct SavedPort {
  uint32_t number;
  uint32_t guest_limit;
  uint8_t taken;
  uint8_t foreign;
  uint8_t zero[2];
};

enum class Fate : uint8_t {
  kGiven,    // goes on with the port of that number
  kForeign,  // goes on for nobody: who was at the other end is not here
  kReset,    // the guest is told that it is over
};

struct SavedConnection {
  uint32_t guest_port;
  uint32_t host_port;
  uint32_t received;
  uint32_t sent;
  uint32_t forwarded_told;
  uint32_t peer_buf_alloc;
  uint32_t peer_fwd_cnt;
  Fate fate;
  uint8_t pending;
  uint8_t guest_shutdown;
  uint8_t host_shutdown;
};
static_assert(std::has_unique_object_representations_v<SavedConnection>);

struct SavedReply {
  uint64_t src_cid;
  uint32_t src_port;
  uint32_t dst_port;
  uint32_t type;
  uint32_t zero;
};

constexpr size_t kMaxSaved = kMaxConnections;

Error StateError(const char* what) {
  return Error{"ERR_DEVICE_STATE", 0, "", std::string("the saved vsock device: ") + what};
}

}  // namespace

QueuePosition VsockDevice::Position(size_t index) const {
  if (index == kReceive) return receive_.position();
  if (index == kTransmit) return transmit_.position();
  return {};
}

// Whether nothing is on its way, in either direction.
bool VsockDevice::AtRest(const Connection& it) const {
  return it.state == State::kEstablished && it.pending == 0 && !it.queued && it.buffer.empty() &&
         it.guest_shutdown == 0 && it.host_shutdown == 0 && !(it.in.valid() && it.in.Readable());
}

Result<void> VsockDevice::Save(ByteWriter& out) const {
  std::vector<SavedConnection> saved;
  for (const auto& [id, connection] : connections_) {
    const Connection& it = *connection;
    if (it.given_port && !it.replaceable && !AtRest(it)) {
      return Error{"ERR_DEVICE_BUSY", 0, "", "a vsock connection is not at rest"};
    }
    // Of these the guest knows nothing yet, or nothing any more.
    if (it.state == State::kHandshake || it.state == State::kFlushing) continue;
    const Fate fate = !it.given_port ? Fate::kReset : it.foreign ? Fate::kForeign : Fate::kGiven;
    // What the guest believes to be on its way has arrived where it goes on: there is room for
    // more.
    const uint8_t update = it.buffer.empty() ? 0 : Connection::kCreditUpdate;
    saved.push_back(
        {it.guest_port, it.host_port, it.received, it.sent, it.forwarded_told, it.peer_buf_alloc,
         it.peer_fwd_cnt, fate, static_cast<uint8_t>(it.pending | update),
         static_cast<uint8_t>(it.guest_shutdown), static_cast<uint8_t>(it.host_shutdown)});
  }
  std::vector<SavedPort> ports;
  for (const Port& port : ports_) {
    ports.push_back({port.number, port.guest_limit, port.taken, port.foreign, {}});
  }
  std::vector<SavedReply> replies;
  for (const Reply& reply : replies_) {
    replies.push_back({reply.src_cid, reply.src_port, reply.dst_port, reply.type, 0});
  }
  out.PutList(std::span<const SavedPort>(ports));
  out.PutList(std::span<const SavedConnection>(saved));
  out.PutList(std::span<const SavedReply>(replies));
  return {};
}

Result<void> VsockDevice::RestorePorts(ByteReader& in) {
  for (const SavedPort& saved : in.TakeList<SavedPort>(kMaxSaved)) {
    const auto found = std::ranges::find(ports_, saved.number, &Port::number);
    if (saved.foreign == 0) {
      if (found != ports_.end() && saved.taken != 0) found->taken = true;
      continue;
    }
    if (found != ports_.end()) return StateError("one port twice");
    AddPort(saved.number, saved.guest_limit, HostFd(), HostFd());
    ports_.back().taken = saved.taken != 0;
    ports_.back().discards = true;
  }
  return {};
}

Result<void> VsockDevice::RestoreConnections(ByteReader& in) {
  for (const SavedConnection& saved : in.TakeList<SavedConnection>(kMaxSaved)) {
    if (saved.fate == Fate::kReset) {
      replies_.push_back({kHostCid, saved.host_port, saved.guest_port, kVsockStream});
      continue;
    }
    if (saved.fate > Fate::kReset || Find(saved.guest_port, saved.host_port) != nullptr) {
      return StateError("one connection twice");
    }
    Connection* connection =
        AddConnection(saved.fate == Fate::kForeign ? kUnixBuffer : kPortBuffer);
    if (connection == nullptr) return StateError("more connections than there may be");
    connection->given_port = true;
    if (saved.fate == Fate::kGiven) {
      const auto port = std::ranges::find(ports_, saved.host_port, &Port::number);
      if (port == ports_.end() || port->foreign || !port->taken) {
        return StateError("a connection to a port that is not given");
      }
      connection->in = std::move(port->read);
      connection->out = std::move(port->write);
      connection->replaceable = port->replaceable;
    } else {
      connection->foreign = connection->replaceable = true;
    }
    connection->guest_port = saved.guest_port;
    connection->host_port = saved.host_port;
    connection->received = connection->forwarded = saved.received;
    connection->forwarded_told = saved.forwarded_told;
    connection->sent = saved.sent;
    connection->peer_buf_alloc = saved.peer_buf_alloc;
    connection->peer_fwd_cnt = saved.peer_fwd_cnt;
    connection->guest_shutdown = saved.guest_shutdown & kShutdownBoth;
    connection->host_shutdown = saved.host_shutdown & kShutdownBoth;
    connection->seen_bytes = true;
    by_ports_[connection->key()] = connection;
    const bool input = (connection->host_shutdown & kShutdownSend) == 0 &&
                       (connection->guest_shutdown & kShutdownReceive) == 0;
    if (!input) connection->in.Close();
    connection->in_ready = connection->in.valid();
    const bool output = (connection->guest_shutdown & kShutdownSend) == 0 &&
                        (connection->host_shutdown & kShutdownReceive) == 0;
    if (!output) FinishOut(connection);
    constexpr uint8_t kCarriedOn =
        Connection::kResponse | Connection::kCreditUpdate | Connection::kShutdown;
    const uint8_t pending = saved.pending & kCarriedOn;
    if (pending != 0) SetPending(connection, pending);
    if (connection->WantsToRead()) Enqueue(connection);
  }
  return {};
}

Result<void> VsockDevice::Restore(ByteReader& in) {
  CLEARVM_RETURN_IF_ERROR(RestorePorts(in));
  CLEARVM_RETURN_IF_ERROR(RestoreConnections(in));
  for (const SavedReply& saved : in.TakeList<SavedReply>(kMaxReplies)) {
    replies_.push_back(
        {saved.src_cid, saved.src_port, saved.dst_port, static_cast<uint16_t>(saved.type)});
  }
  if (!in.ok()) return StateError("it is cut short");
  // The guest has had its connections to these, and they are over.
  for (Port& port : ports_) {
    if (!port.taken || port.foreign) continue;
    const bool connected = std::ranges::any_of(connections_, [&port](const auto& entry) {
      return entry.second->given_port && entry.second->host_port == port.number;
    });
    if (connected) continue;
    port.read.Close();
    const bool output = port.write.valid();
    port.write.Close();
    if (output && options_.on_drained) options_.on_drained(port.number);
  }
  return {};
}

}  // namespace clearvm::virtio
