#include "native/virtio/vsock.h"

#include <sys/socket.h>

#include <array>
#include <set>

#include "native/virtio/vsock_device.h"

namespace clearvm::virtio {
namespace {

constexpr size_t kReceive = 0;
constexpr size_t kTransmit = 1;
// Linux fills the receive queue with 4 KiB buffers when it probes the device: 64 cost little at
// boot, and hold several times what one read of ours brings. Of the event queue it uses 8 entries,
// we none.
constexpr std::array<uint16_t, 3> kQueueSizes = {64, 64, 8};
constexpr uint64_t kFeatureStream = 1;

// Packets taken from, and turns given to connections for, the guest before the loop's other events
// have theirs.
constexpr int kTransmitBudget = 128;
constexpr int kReceiveBudget = 64;
// Receive buffers that one read may fill, and the slices that they may be in.
constexpr size_t kBatch = 32;
constexpr size_t kMaxSlices = kMaxChainBuffers;

constexpr size_t kMaxUnixPath = 107 - sizeof("_4294967295") + 1;

}  // namespace

Result<std::unique_ptr<Vsock>> CreateVsock(VsockOptions options, EventLoop* loop) {
  const auto wrong = [](std::string message) {
    return Error{"ERR_VSOCK_CONFIG", 0, "", std::move(message)};
  };
  if (options.guest_cid <= kHostCid || options.guest_cid >= UINT32_MAX) {
    return wrong("the guest's vsock CID must be from 3 to 4294967294");
  }
  if (options.unix_path.size() > kMaxUnixPath) {
    return wrong("the path of the vsock Unix socket is longer than " +
                 std::to_string(kMaxUnixPath) + " bytes: choose a shorter one");
  }
  std::vector<VsockDevice::Port> ports;
  std::set<uint32_t> numbers;
  for (VsockPort& given : options.ports) {
    if (!numbers.insert(given.port).second) {
      return wrong("vsock port " + std::to_string(given.port) + " is given twice");
    }
    VsockDevice::Port port{given.port, {}, {}};
    port.replaceable = given.replaceable;
    if (given.read.valid()) {
      CLEARVM_ASSIGN(port.read, HostFd::Adopt(std::move(given.read), HostFd::Direction::kRead));
    }
    if (given.write.valid()) {
      CLEARVM_ASSIGN(port.write, HostFd::Adopt(std::move(given.write), HostFd::Direction::kWrite));
    }
    ports.push_back(std::move(port));
  }
  options.ports.clear();
  return std::unique_ptr<Vsock>(
      std::make_unique<VsockDevice>(std::move(options), std::move(ports), loop));
}

VsockDevice::VsockDevice(VsockOptions options, std::vector<Port> ports, EventLoop* loop)
    : options_(std::move(options)),
      ports_(std::move(ports)),
      loop_(loop),
      batch_(kBatch),
      batch_room_(kBatch) {
  slices_.reserve(kMaxSlices);
}

VsockDevice::~VsockDevice() {
  if (listener_added_) loop_->Remove(options_.unix_listener.get());
}

uint64_t VsockDevice::features() const { return kFeatureStream; }
std::span<const uint16_t> VsockDevice::queue_max_sizes() const { return kQueueSizes; }

void VsockDevice::ReadConfig(uint32_t offset, std::span<uint8_t> out) const {
  const uint64_t cid = options_.guest_cid;
  if (offset >= sizeof cid) return;
  std::memcpy(out.data(), reinterpret_cast<const uint8_t*>(&cid) + offset,
              std::min<size_t>(out.size(), sizeof cid - offset));
}

Result<void> VsockDevice::Activate(uint64_t, std::vector<Queue> queues, Interrupt* interrupt) {
  interrupt_ = interrupt;
  receive_ = std::move(queues[kReceive]);
  transmit_ = std::move(queues[kTransmit]);
  // New receive buffers only matter when we lack one; Pump asks for a kick then.
  receive_.DisableNotification();
  active_ = true;
  ArmListener();
  return {};
}

void VsockDevice::Reset() {
  active_ = false;
  std::vector<Connection*> all;
  for (auto& [id, connection] : connections_) all.push_back(connection.get());
  for (Connection* connection : all) {
    if (connection->state != State::kFlushing) Detach(connection);
  }
  runnable_.clear();
  replies_.clear();
  transmit_waits_ = false;
  receive_ = Queue();
  transmit_ = Queue();
}

void VsockDevice::Break(QueueFault fault) {
  active_ = false;
  interrupt_->SignalNeedsReset(fault);
}

void VsockDevice::HandleQueue(size_t index) {
  if (!active_) return;
  if (index == kTransmit) return HandleTransmit();
  if (index != kReceive) return;
  receive_.DisableNotification();
  Pump();
}

void VsockDevice::HandleTransmit() {
  transmit_waits_ = false;
  transmit_.DisableNotification();
  int budget = kTransmitBudget;
  do {
    while (budget > 0 && replies_.size() < kMaxReplies && transmit_.Pop(&chain_)) {
      HandlePacket(chain_);
      transmit_.AddUsed(chain_, 0);
      budget--;
    }
  } while (budget > 0 && replies_.size() < kMaxReplies && transmit_.EnableNotification());
  if (transmit_.fault() != QueueFault::kNone) return Break(transmit_.fault());
  if (replies_.size() >= kMaxReplies) {
    transmit_waits_ = true;
  } else if (budget == 0) {
    interrupt_->KickAgain(kTransmit);
  }
  Pump();
}

void VsockDevice::HandlePacket(const Chain& chain) {
  VsockHeader header;
  // Without a header there is nobody to answer; with a wrong sender, neither (section 5.10.6.2).
  if (chain.readable_bytes() < sizeof header) return;
  CopyFrom(chain.readable(), &header, sizeof header);
  if (header.src_cid != options_.guest_cid) return;
  if (header.dst_cid != kHostCid || header.type != kVsockStream) return ReplyReset(header);

  Connection* connection = Find(header.src_port, header.dst_port);
  if (connection == nullptr) {
    return header.op == kOpRequest ? HandleRequest(header) : ReplyReset(header);
  }
  if (header.len > chain.readable_bytes() - sizeof header) return DetachWithReset(connection);
  connection->peer_buf_alloc = header.buf_alloc;
  connection->peer_fwd_cnt = header.fwd_cnt;
  if (connection->Credit() != 0) connection->credit_requested = false;
  HandleConnectionPacket(connection, header, chain);
}

void VsockDevice::ReplyReset(const VsockHeader& header) {
  // A RST that were answered by one would go to and fro for ever.
  if (header.op == kOpRst) return;
  replies_.push_back({header.dst_cid, header.dst_port, header.src_port, header.type});
}

void VsockDevice::HandleRequest(const VsockHeader& header) {
  Connection* connection = nullptr;
  if (!ConnectHost(header.src_port, header.dst_port, &connection)) return ReplyReset(header);
  connection->guest_port = header.src_port;
  connection->host_port = header.dst_port;
  connection->peer_buf_alloc = header.buf_alloc;
  connection->peer_fwd_cnt = header.fwd_cnt;
  connection->in_ready = connection->in.valid();
  by_ports_[connection->key()] = connection;
  SetPending(connection, Connection::kResponse);
  if (!connection->in.valid()) {
    connection->host_shutdown |= kShutdownSend;
    SetPending(connection, Connection::kShutdown);
  }
}

void VsockDevice::HandleConnectionPacket(Connection* connection, const VsockHeader& header,
                                         const Chain& chain) {
  if (header.op == kOpRst) return Detach(connection);
  if (connection->state == State::kRequested) {
    return header.op == kOpResponse ? CompleteHandshake(connection) : DetachWithReset(connection);
  }
  switch (header.op) {
    case kOpRw:
      // Bytes after the end-of-file, for nobody, or beyond what we said we have room for.
      if ((connection->guest_shutdown & kShutdownSend) != 0 || connection->refuse_bytes ||
          header.len > connection->Window()) {
        return DetachWithReset(connection);
      }
      HandleBytes(connection, chain, header.len);
      break;
    case kOpShutdown:
      return HandleShutdown(connection, header.flags);
    case kOpCreditUpdate:
      break;
    case kOpCreditRequest:
      SetPending(connection, Connection::kCreditUpdate);
      break;
    default:
      return DetachWithReset(connection);
  }
  if (connection->WantsToRead() && connection->Credit() != 0) Enqueue(connection);
}

void VsockDevice::HandleShutdown(Connection* connection, uint32_t flags) {
  connection->guest_shutdown |= flags & kShutdownBoth;
  if ((connection->guest_shutdown & kShutdownBoth) == kShutdownBoth) {
    // Section 5.10.6.4: a RST ends it, at once, so that the guest need not wait for a slow host.
    return DetachWithReset(connection);
  }
  if ((flags & kShutdownReceive) != 0) {
    connection->in_ready = false;
    // A given socket may be another process's as well; our own only has us.
    connection->in.Close(connection->given_port ? -1 : SHUT_RD);
  }
  if ((flags & kShutdownSend) != 0 && connection->buffer.empty()) FinishOut(connection);
}

void VsockDevice::Enqueue(Connection* connection) {
  if (connection->queued) return;
  connection->queued = true;
  runnable_.push_back(connection->id);
}

void VsockDevice::SetPending(Connection* connection, uint8_t packets) {
  connection->pending |= packets;
  Enqueue(connection);
}

void VsockDevice::Pump() {
  if (!active_) return;
  int budget = kReceiveBudget;
  bool progress = true;
  while (budget-- > 0 && progress && (!replies_.empty() || !runnable_.empty())) {
    // Asking for a kick only when there is no buffer left keeps the guest from sending one for each
    // refill.
    if (!receive_.HasAvailable() && !receive_.EnableNotification()) break;
    progress = SendDue();
  }
  if (receive_.fault() != QueueFault::kNone) return Break(receive_.fault());
  if (!active_) return;
  if (budget < 0) interrupt_->KickAgain(kReceive);
  if (transmit_waits_ && replies_.size() < kMaxReplies) {
    transmit_waits_ = false;
    interrupt_->KickAgain(kTransmit);
  }
  // Not short-circuited: each call notes what its queue has been signalled for.
  const bool received = receive_.NeedsInterrupt();
  const bool transmitted = transmit_.NeedsInterrupt();
  if (received || transmitted) interrupt_->SignalUsed();
}

bool VsockDevice::SendDue() {
  if (!replies_.empty()) {
    const Reply reply = replies_.front();
    VsockHeader header{};
    header.src_cid = reply.src_cid;
    header.dst_cid = options_.guest_cid;
    header.src_port = reply.src_port;
    header.dst_port = reply.dst_port;
    header.type = reply.type;
    header.op = kOpRst;
    if (!SendHeader(header)) return false;
    replies_.pop_front();
    return true;
  }
  const auto found = connections_.find(runnable_.front());
  runnable_.pop_front();
  if (found == connections_.end()) return true;
  Connection* connection = found->second.get();
  connection->queued = false;
  if (connection->state == State::kFlushing) return true;
  const bool sent = SendNext(connection);
  const bool more =
      connection->pending != 0 || (connection->WantsToRead() && connection->Credit() != 0);
  if (more) Enqueue(connection);
  return sent;
}

// Sends one packet, or one read's worth of them. False: the queue is broken or was empty after all.
bool VsockDevice::SendNext(Connection* connection) {
  static constexpr struct {
    uint8_t pending;
    VsockOp op;
  } kControl[] = {
      {Connection::kRequest, kOpRequest},           {Connection::kResponse, kOpResponse},
      {Connection::kCreditUpdate, kOpCreditUpdate}, {Connection::kCreditRequest, kOpCreditRequest},
      {Connection::kShutdown, kOpShutdown},
  };
  for (const auto& control : kControl) {
    if ((connection->pending & control.pending) == 0) continue;
    VsockHeader header = Header(connection, control.op);
    if (control.op == kOpShutdown) header.flags = connection->host_shutdown;
    if (!SendHeader(header)) return false;
    connection->pending &= ~control.pending;
    return true;
  }
  if (!connection->WantsToRead()) return true;
  if (connection->Credit() != 0) return SendBytes(connection);
  return true;
}

VsockHeader VsockDevice::Header(Connection* connection, VsockOp op) {
  VsockHeader header{};
  header.src_cid = kHostCid;
  header.dst_cid = options_.guest_cid;
  header.src_port = connection->host_port;
  header.dst_port = connection->guest_port;
  header.type = kVsockStream;
  header.op = op;
  header.buf_alloc = connection->buf_alloc;
  header.fwd_cnt = connection->forwarded;
  connection->forwarded_told = connection->forwarded;
  return header;
}

bool VsockDevice::SendHeader(const VsockHeader& header) {
  if (!receive_.Pop(&chain_)) return false;
  if (chain_.writable_bytes() < sizeof header) {
    Break(QueueFault::kBufferSize);
    return false;
  }
  CopyTo(chain_.writable(), &header, sizeof header);
  receive_.AddUsed(chain_, sizeof header);
  return true;
}

// Reads the host's bytes straight into as many receive buffers as they may fill.
bool VsockDevice::SendBytes(Connection* connection) {
  const uint32_t want = std::min(connection->read_size, connection->Credit());
  slices_.clear();
  size_t room = 0;
  uint16_t chains = 0;
  while (room < want && chains < kBatch && receive_.Pop(&batch_[chains])) {
    Chain& chain = batch_[chains];
    if (chain.writable_bytes() <= sizeof(VsockHeader)) {
      Break(QueueFault::kBufferSize);
      return false;
    }
    if (chains != 0 && slices_.size() + chain.writable().size() > kMaxSlices) {
      receive_.Unpop();
      break;
    }
    batch_room_[chains] = AppendSlice(chain.writable(), sizeof(VsockHeader), want - room, &slices_);
    room += batch_room_[chains];
    chains++;
  }
  if (chains == 0) return false;
  const ssize_t got = connection->in.Read(slices_.data(), slices_.size());
  if (got <= 0) {
    receive_.Unpop(chains);
    if (got == -EAGAIN) AwaitReadable(connection);
    // An fd that is not ready and cannot be waited for would keep the loop busy for nothing.
    if (got != -EAGAIN || connection->in_ready) HostEndOfFile(connection);
    return true;
  }
  auto left = static_cast<size_t>(got);
  uint16_t filled = 0;
  for (; left != 0; filled++) {
    const auto length = static_cast<uint32_t>(std::min(batch_room_[filled], left));
    VsockHeader header = Header(connection, kOpRw);
    header.len = length;
    CopyTo(batch_[filled].writable(), &header, sizeof header);
    receive_.AddUsed(batch_[filled], static_cast<uint32_t>(sizeof header) + length);
    left -= length;
  }
  receive_.Unpop(static_cast<uint16_t>(chains - filled));
  connection->sent += static_cast<uint32_t>(got);
  // The RW packets have told the guest what a credit update would.
  connection->pending &= ~Connection::kCreditUpdate;
  if (static_cast<size_t>(got) == room) {
    connection->read_size = std::min(connection->read_size * 2, kMaxRead);
  } else {
    connection->read_size = std::max(connection->read_size / 2, kMinRead);
    // Less than was asked for: there is no more for the moment. Asking epoll costs no more than
    // asking the fd.
    AwaitReadable(connection);
  }
  if (connection->Credit() == 0 && !connection->credit_requested) {
    connection->credit_requested = true;
    SetPending(connection, Connection::kCreditRequest);
  }
  return true;
}

}  // namespace clearvm::virtio
