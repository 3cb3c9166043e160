#include "native/vmm/frame_channel.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cstring>
#include <iterator>

namespace clearvm::vmm {
namespace {

// File descriptors that one message may carry, and that may wait for the frame they belong to.
constexpr size_t kMessageFds = 8;
constexpr size_t kWaitingFds = 16;

}  // namespace

Result<void> FrameParser::Feed(std::span<const uint8_t> bytes, const OnFrame& on_frame) {
  buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  size_t used = 0;
  while (buffer_.size() - used >= sizeof(clearvm_frame)) {
    clearvm_frame header;
    std::memcpy(&header, buffer_.data() + used, sizeof header);
    if (header.length > max_payload_ || header.reserved != 0) {
      return Error{"ERR_FRAME", 0, "",
                   "a frame of type " + std::to_string(header.type) + " claims " +
                       std::to_string(header.length) + " bytes; at most " +
                       std::to_string(max_payload_) + " are allowed"};
    }
    if (buffer_.size() - used - sizeof header < header.length) break;
    on_frame(header,
             std::span<const uint8_t>(buffer_).subspan(used + sizeof header, header.length));
    used += sizeof header + header.length;
  }
  buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<ptrdiff_t>(used));
  return {};
}

FrameChannel::FrameChannel(UniqueFd socket, uint32_t max_payload, EventLoop* loop,
                           Handlers handlers, Options options)
    : socket_(std::move(socket)),
      loop_(loop),
      handlers_(std::move(handlers)),
      parser_(max_payload),
      options_(options),
      watched_(EPOLLIN) {}

Result<std::unique_ptr<FrameChannel>> FrameChannel::Create(UniqueFd socket, uint32_t max_payload,
                                                           EventLoop* loop, Handlers handlers,
                                                           Options options) {
  std::unique_ptr<FrameChannel> channel(
      new FrameChannel(std::move(socket), max_payload, loop, std::move(handlers), options));
  FrameChannel* self = channel.get();
  CLEARVM_RETURN_IF_ERROR(loop->Add(channel->socket_.get(), EPOLLIN,
                                    [self](uint32_t events) { self->HandleEvents(events); }));
  return channel;
}

FrameChannel::~FrameChannel() {
  if (!closed_) loop_->Remove(socket_.get());
}

void FrameChannel::HandleEvents(uint32_t events) {
  if ((events & EPOLLOUT) != 0) Write();
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) Read();
}

bool FrameChannel::Read() {
  if (closed_) return false;
  std::array<uint8_t, 16384> chunk;
  const ssize_t got = Receive(chunk);
  if (got < 0) {
    if (errno != EAGAIN && errno != EINTR) {
      Close(SystemError("ERR_FRAME_CLOSED", "recv", "the connection broke"));
    }
    return false;
  }
  if (got == 0) {
    Close(Error{"ERR_FRAME_CLOSED", 0, "", "the connection was closed"});
    return false;
  }
  auto fed = parser_.Feed(std::span<const uint8_t>(chunk).first(static_cast<size_t>(got)),
                          handlers_.on_frame);
  if (!fed.ok()) Close(std::move(fed.error()));
  return fed.ok();
}

void FrameChannel::ReadAll() {
  while (Read()) {
  }
}

// As recv(2).
ssize_t FrameChannel::Receive(std::span<uint8_t> bytes) {
  if (!options_.takes_fds) {
    return ::recv(socket_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
  }
  alignas(cmsghdr) std::array<uint8_t, CMSG_SPACE(kMessageFds * sizeof(int))> control;
  iovec part{bytes.data(), bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t got = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got < 0) return got;
  for (cmsghdr* entry = CMSG_FIRSTHDR(&message); entry != nullptr;
       entry = CMSG_NXTHDR(&message, entry)) {
    if (entry->cmsg_level != SOL_SOCKET || entry->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (entry->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(entry) + i * sizeof fd, sizeof fd);
      fds_.emplace_back(fd);
    }
  }
  if ((message.msg_flags & MSG_CTRUNC) == 0 && fds_.size() <= kWaitingFds) return got;
  errno = ETOOMANYREFS;
  return -1;
}

std::vector<UniqueFd> FrameChannel::TakeFds(size_t count) {
  std::vector<UniqueFd> taken;
  if (fds_.size() < count) return taken;
  const auto end = fds_.begin() + static_cast<ptrdiff_t>(count);
  std::move(fds_.begin(), end, std::back_inserter(taken));
  fds_.erase(fds_.begin(), end);
  return taken;
}

void FrameChannel::Send(uint16_t type, uint32_t process, std::span<const uint8_t> payload,
                        std::span<const int> fds) {
  if (closed_) return;
  const clearvm_frame header{static_cast<uint32_t>(payload.size()), type, 0, process};
  const auto bytes = BytesOf(header);
  outgoing_.insert(outgoing_.end(), bytes.begin(), bytes.end());
  outgoing_.insert(outgoing_.end(), payload.begin(), payload.end());
  if (!fds.empty()) SendFds(fds);
  Write();
}

// Sends what is queued, as far as the socket takes it at once. A peer that is gone shows when
// reading.
void FrameChannel::SendFds(std::span<const int> fds) {
  alignas(cmsghdr) std::array<uint8_t, CMSG_SPACE(kMessageFds * sizeof(int))> control{};
  iovec part{outgoing_.data(), outgoing_.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = CMSG_SPACE(fds.size_bytes());
  cmsghdr* entry = CMSG_FIRSTHDR(&message);
  entry->cmsg_level = SOL_SOCKET;
  entry->cmsg_type = SCM_RIGHTS;
  entry->cmsg_len = CMSG_LEN(fds.size_bytes());
  std::memcpy(CMSG_DATA(entry), fds.data(), fds.size_bytes());
  ssize_t sent;
  do sent = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  while (sent < 0 && errno == EINTR);
  if (sent > 0) outgoing_.erase(outgoing_.begin(), outgoing_.begin() + sent);
}

void FrameChannel::Write() {
  size_t sent = 0;
  while (sent < outgoing_.size()) {
    const ssize_t wrote = ::send(socket_.get(), outgoing_.data() + sent, outgoing_.size() - sent,
                                 MSG_DONTWAIT | MSG_NOSIGNAL);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0 && errno == EAGAIN) break;
    // A peer that is gone shows as end-of-file when reading: what it has sent before is still to be
    // read.
    if (wrote < 0)
      sent = outgoing_.size();
    else
      sent += static_cast<size_t>(wrote);
  }
  outgoing_.erase(outgoing_.begin(), outgoing_.begin() + static_cast<ptrdiff_t>(sent));
  const uint32_t wanted = (outgoing_.size() > options_.max_queued ? 0u : uint32_t{EPOLLIN}) |
                          (outgoing_.empty() ? 0u : uint32_t{EPOLLOUT});
  if (wanted == watched_) return;
  watched_ = wanted;
  // It fails only for an fd that is not watched, which this one is until it is closed.
  (void)loop_->Modify(socket_.get(), wanted);
}

void FrameChannel::Flush(int timeout_ms) {
  while (!closed_ && !outgoing_.empty()) {
    pollfd ready{socket_.get(), POLLOUT, 0};
    if (::poll(&ready, 1, timeout_ms) <= 0) return;
    Write();
  }
}

void FrameChannel::Close(Error error) {
  if (closed_) return;
  closed_ = true;
  loop_->Remove(socket_.get());
  handlers_.on_close(error);
}

}  // namespace clearvm::vmm
