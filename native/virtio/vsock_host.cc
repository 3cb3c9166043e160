#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cstdio>

#include "native/virtio/vsock_device.h"

namespace clearvm::virtio {
namespace {

// "CONNECT 4294967295\n"
constexpr size_t kMaxHandshake = 19;
// Clients accepted before the loop's other events have their turn.
constexpr int kAcceptBudget = 16;

}  // namespace

VsockDevice::Connection* VsockDevice::AddConnection(uint32_t buffer_size) {
  if (connections_.size() >= kMaxConnections) return nullptr;
  const uint64_t id = next_id_++;
  auto connection = std::make_unique<Connection>(id, buffer_size);
  Connection* raw = connection.get();
  connections_.emplace(id, std::move(connection));
  return raw;
}

VsockDevice::Connection* VsockDevice::Find(uint32_t guest_port, uint32_t host_port) {
  const auto found = by_ports_.find(Connection::Key(guest_port, host_port));
  return found == by_ports_.end() ? nullptr : found->second;
}

// Makes the host's end of a connection that the guest asks for. False: refused.
bool VsockDevice::ConnectHost(uint32_t guest_port, uint32_t host_port, Connection** connection) {
  for (Port& port : ports_) {
    if (port.number != host_port) continue;
    if (port.taken || guest_port >= port.guest_limit ||
        (*connection = AddConnection(port.foreign ? kUnixBuffer : kPortBuffer)) == nullptr) {
      return false;
    }
    port.taken = true;
    (*connection)->given_port = true;
    (*connection)->foreign = port.foreign;
    (*connection)->replaceable = port.replaceable || port.foreign;
    (*connection)->in = std::move(port.read);
    (*connection)->out = std::move(port.write);
    (*connection)->refuse_bytes = !(*connection)->out.valid() && !port.discards;
    return true;
  }
  UniqueFd socket = ConnectUnix(host_port);
  UniqueFd again(socket.valid() ? ::fcntl(socket.get(), F_DUPFD_CLOEXEC, 3) : -1);
  if (!again.valid() || (*connection = AddConnection(kUnixBuffer)) == nullptr) return false;
  (*connection)->in = HostFd::Socket(std::move(socket));
  (*connection)->out = HostFd::Socket(std::move(again));
  return true;
}

void VsockDevice::AddPort(uint32_t port, uint32_t guest_limit, HostFd read, HostFd write) {
  ports_.push_back(
      {port, std::move(read), std::move(write), false, true, guest_limit, false, true});
}

void VsockDevice::ChangePort(uint32_t port, PortChange change) {
  const auto found = std::find_if(ports_.begin(), ports_.end(),
                                  [port](const Port& each) { return each.number == port; });
  if (found != ports_.end() && !found->taken && change == PortChange::kDiscard) {
    found->read.Close();
    found->write.Close();
    found->discards = true;
    return;
  }
  const bool taken = found == ports_.end() || found->taken;
  if (found != ports_.end()) ports_.erase(found);
  if (!taken && options_.on_drained) options_.on_drained(port);
  if (change == PortChange::kRelease) return;
  const auto connected =
      std::find_if(connections_.begin(), connections_.end(), [port](const auto& entry) {
        return entry.second->given_port && entry.second->host_port == port;
      });
  if (connected == connections_.end()) return;
  Connection* connection = connected->second.get();
  if (change == PortChange::kDiscard) {
    Discard(connection);
  } else if (connection->state == State::kFlushing) {
    FinishOut(connection);
    Destroy(connection);
  } else {
    connection->buffer.Clear();
    DetachWithReset(connection);
  }
  Pump();
}

void VsockDevice::Discard(Connection* connection) {
  connection->in_ready = false;
  connection->in.Close();
  Forwarded(connection, static_cast<uint32_t>(connection->buffer.size()));
  connection->buffer.Clear();
  connection->out.Close();
  if (connection->state == State::kFlushing) Destroy(connection);
}

UniqueFd VsockDevice::ConnectUnix(uint32_t host_port) const {
  if (options_.unix_path.empty()) return {};
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::snprintf(address.sun_path, sizeof address.sun_path, "%s_%u", options_.unix_path.c_str(),
                host_port);
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  // A Unix socket connects at once or, with a full backlog, not at all.
  if (!socket.valid() ||
      ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return {};
  }
  return socket;
}

// --- Guest to host ---

void VsockDevice::HandleBytes(Connection* connection, const Chain& chain, uint32_t length) {
  if (length == 0) return;
  connection->received += length;
  if (!connection->seen_bytes) {
    connection->seen_bytes = true;
    if (connection->given_port && options_.on_first_bytes) {
      options_.on_first_bytes(connection->host_port);
    }
  }
  size_t offset = sizeof(VsockHeader);
  size_t left = length;
  while (left != 0 && connection->out.valid() && connection->buffer.empty()) {
    slices_.clear();
    AppendSlice(chain.readable(), offset, left, &slices_);
    const ssize_t wrote = connection->out.Write(slices_.data(), slices_.size());
    if (wrote == -EAGAIN) break;
    if (wrote <= 0) {
      HostRefuses(connection);
      break;
    }
    offset += static_cast<size_t>(wrote);
    left -= static_cast<size_t>(wrote);
  }
  if (connection->out.valid() && left != 0) {
    Forwarded(connection, length - static_cast<uint32_t>(left));
    const bool was_empty = connection->buffer.empty();
    slices_.clear();
    AppendSlice(chain.readable(), offset, left, &slices_);
    for (const iovec& slice : slices_) connection->buffer.Append(slice.iov_base, slice.iov_len);
    if (was_empty) Flush(connection);
    return;
  }
  // Written, or nobody takes it any more: either way it needs no room.
  Forwarded(connection, length);
}

void VsockDevice::Forwarded(Connection* connection, uint32_t bytes) {
  connection->forwarded += bytes;
  if (connection->state == State::kEstablished &&
      connection->forwarded - connection->forwarded_told >= connection->buf_alloc / 2) {
    SetPending(connection, Connection::kCreditUpdate);
  }
}

// Writes out what is buffered, as far as the host takes it. The connection stays.
void VsockDevice::Flush(Connection* connection) {
  while (!connection->buffer.empty()) {
    iovec parts[2];
    const size_t count = connection->buffer.Content(parts);
    const ssize_t wrote = connection->out.Write(parts, count);
    if (wrote == -EAGAIN && AwaitWritable(connection, EPOLLOUT)) return;
    if (wrote <= 0) return HostRefuses(connection);
    connection->buffer.Consume(static_cast<size_t>(wrote));
    Forwarded(connection, static_cast<uint32_t>(wrote));
  }
  if ((connection->guest_shutdown & kShutdownSend) != 0 || connection->state == State::kFlushing) {
    FinishOut(connection);
  } else {
    AwaitHangUp(connection);
  }
}

bool VsockDevice::AwaitWritable(Connection* connection, uint32_t events) {
  return connection->out.Arm(loop_, events,
                             [this, id = connection->id](uint32_t got) { OnWritable(id, got); });
}

// Once the peer of a socket has sent its end-of-file, only this tells when it closes altogether.
void VsockDevice::AwaitHangUp(Connection* connection) {
  if (connection->in.valid() || !connection->out.valid() || !connection->out.is_socket()) return;
  AwaitWritable(connection, 0);
}

void VsockDevice::OnWritable(uint64_t id, uint32_t events) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  Connection* connection = found->second.get();
  if (connection->buffer.empty() && connection->out.valid() &&
      (events & (EPOLLERR | EPOLLHUP)) != 0) {
    HostRefuses(connection);
  } else {
    Flush(connection);
  }
  if (connection->state == State::kFlushing && !connection->out.valid()) Destroy(connection);
  Pump();
}

void VsockDevice::HostRefuses(Connection* connection) {
  Forwarded(connection, static_cast<uint32_t>(connection->buffer.size()));
  FinishOut(connection);
  connection->host_shutdown |= kShutdownReceive;
  if (connection->state == State::kEstablished) SetPending(connection, Connection::kShutdown);
}

void VsockDevice::FinishOut(Connection* connection) {
  connection->buffer.Clear();
  if (!connection->out.valid()) return;
  connection->out.Close(connection->foreign ? -1 : SHUT_WR);
  if (connection->given_port && options_.on_drained) options_.on_drained(connection->host_port);
}

// --- Host to guest ---

void VsockDevice::AwaitReadable(Connection* connection) {
  // What is always ready stays so, and takes its turns with the others.
  connection->in_ready = !connection->in.Arm(
      loop_, EPOLLIN, [this, id = connection->id](uint32_t) { OnReadable(id); });
}

void VsockDevice::OnReadable(uint64_t id) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  Connection* connection = found->second.get();
  switch (connection->state) {
    case State::kHandshake:
      ReadHandshake(connection);
      break;
    case State::kRequested:
      // Only a hang-up is waited for: the client has gone.
      DetachWithReset(connection);
      break;
    case State::kEstablished:
      connection->in_ready = true;
      if (connection->Credit() != 0) Enqueue(connection);
      break;
    case State::kFlushing:
      break;
  }
  Pump();
}

void VsockDevice::HostEndOfFile(Connection* connection) {
  const bool hung_up = connection->in.is_socket() && connection->in.HungUp();
  connection->in_ready = false;
  connection->in.Close();
  connection->host_shutdown |= kShutdownSend;
  SetPending(connection, Connection::kShutdown);
  if (hung_up && connection->out.is_socket() && connection->out.HungUp()) {
    HostRefuses(connection);
  } else if (connection->buffer.empty()) {
    AwaitHangUp(connection);
  }
}

// --- Ends ---

void VsockDevice::DetachWithReset(Connection* connection) {
  replies_.push_back({kHostCid, connection->host_port, connection->guest_port, kVsockStream});
  Detach(connection);
}

void VsockDevice::Detach(Connection* connection) {
  // A client who has not said where to is not in the table, and its ports are somebody else's.
  if (connection->state != State::kHandshake) by_ports_.erase(connection->key());
  connection->in_ready = false;
  connection->in.Close();
  connection->state = State::kFlushing;
  connection->pending = 0;
  if (connection->buffer.empty()) FinishOut(connection);
  if (!connection->out.valid()) Destroy(connection);
}

void VsockDevice::Destroy(Connection* connection) {
  if (connection->queued) std::erase(runnable_, connection->id);
  connections_.erase(connection->id);
  ArmListener();
}

// --- Unix clients ---

void VsockDevice::ArmListener() {
  const int fd = options_.unix_listener.get();
  if (fd < 0 || !active_ || listener_armed_ || connections_.size() >= kMaxConnections) return;
  // One-shot, so that a client who cannot be accepted now does not keep the loop busy.
  constexpr uint32_t kEvents = EPOLLIN | EPOLLONESHOT;
  listener_armed_ = listener_added_ ? loop_->Modify(fd, kEvents).ok()
                                    : loop_->Add(fd, kEvents, [this](uint32_t) { Accept(); }).ok();
  listener_added_ = listener_added_ || listener_armed_;
}

void VsockDevice::Accept() {
  listener_armed_ = false;
  if (!active_) return;
  int accept_errno = 0;
  for (int i = 0; i < kAcceptBudget && connections_.size() < kMaxConnections; i++) {
    // The listener's file description may be a blocking one, and is not ours to change.
    pollfd waiting{options_.unix_listener.get(), POLLIN, 0};
    if (::poll(&waiting, 1, 0) <= 0) break;
    UniqueFd socket(
        ::accept4(options_.unix_listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    accept_errno = errno;
    if (!socket.valid()) break;
    UniqueFd again(::fcntl(socket.get(), F_DUPFD_CLOEXEC, 3));
    if (!again.valid()) continue;
    Connection* connection = AddConnection(kUnixBuffer);
    connection->state = State::kHandshake;
    connection->in = HostFd::Socket(std::move(socket));
    connection->out = HostFd::Socket(std::move(again));
    ReadHandshake(connection);
  }
  // Out of descriptors: the end of a connection will arm it again.
  if (accept_errno != EMFILE && accept_errno != ENFILE) ArmListener();
  Pump();
}

void VsockDevice::ReadHandshake(Connection* connection) {
  // Only to the end of the line: what follows is the guest's.
  while (connection->request.size() < kMaxHandshake) {
    char byte;
    iovec buffer{&byte, 1};
    const ssize_t got = connection->in.Read(&buffer, 1);
    if (got == -EAGAIN) return AwaitReadable(connection);
    if (got <= 0) return Detach(connection);
    if (byte == '\n') {
      if (!ParseHandshake(connection)) return Detach(connection);
      return;
    }
    connection->request.push_back(byte);
  }
  Detach(connection);
}

bool VsockDevice::ParseHandshake(Connection* connection) {
  static constexpr char kVerb[] = "CONNECT ";
  const std::string& line = connection->request;
  const size_t verb = sizeof kVerb - 1;
  if (line.size() <= verb || line.compare(0, verb, kVerb) != 0) return false;
  uint64_t port = 0;
  for (size_t i = verb; i < line.size(); i++) {
    if (line[i] < '0' || line[i] > '9') return false;
    port = port * 10 + static_cast<uint64_t>(line[i] - '0');
  }
  if (port > UINT32_MAX) return false;
  connection->guest_port = static_cast<uint32_t>(port);
  do {
    connection->host_port = next_host_port_++;
    if (next_host_port_ == UINT32_MAX) next_host_port_ = kFirstEphemeralPort;
  } while (Find(connection->guest_port, connection->host_port) != nullptr);
  by_ports_[connection->key()] = connection;
  connection->state = State::kRequested;
  SetPending(connection, Connection::kRequest);
  connection->in.Arm(loop_, 0, [this, id = connection->id](uint32_t) { OnReadable(id); });
  return true;
}

void VsockDevice::CompleteHandshake(Connection* connection) {
  char line[16];
  const int length = std::snprintf(line, sizeof line, "OK %u\n", connection->host_port);
  iovec buffer{line, static_cast<size_t>(length)};
  // The socket is fresh and its buffer empty: a short write means that it is broken.
  if (connection->out.Write(&buffer, 1) != length) return DetachWithReset(connection);
  connection->state = State::kEstablished;
  connection->in_ready = true;
  Enqueue(connection);
}

}  // namespace clearvm::virtio
