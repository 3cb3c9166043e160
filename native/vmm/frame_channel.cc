#include "native/vmm/frame_channel.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cstring>

namespace clearvm::vmm {

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
                           Handlers handlers)
    : socket_(std::move(socket)),
      loop_(loop),
      handlers_(std::move(handlers)),
      parser_(max_payload) {}

Result<std::unique_ptr<FrameChannel>> FrameChannel::Create(UniqueFd socket, uint32_t max_payload,
                                                           EventLoop* loop, Handlers handlers) {
  std::unique_ptr<FrameChannel> channel(
      new FrameChannel(std::move(socket), max_payload, loop, std::move(handlers)));
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
  if (closed_ || (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) == 0) return;
  std::array<uint8_t, 16384> chunk;
  const ssize_t got = ::recv(socket_.get(), chunk.data(), chunk.size(), MSG_DONTWAIT);
  if (got < 0) {
    if (errno != EAGAIN && errno != EINTR) {
      Close(SystemError("ERR_FRAME_CLOSED", "recv", "the connection broke"));
    }
    return;
  }
  if (got == 0) return Close(Error{"ERR_FRAME_CLOSED", 0, "", "the connection was closed"});
  auto fed = parser_.Feed(std::span<const uint8_t>(chunk).first(static_cast<size_t>(got)),
                          handlers_.on_frame);
  if (!fed.ok()) Close(std::move(fed.error()));
}

void FrameChannel::Send(uint16_t type, uint32_t process, std::span<const uint8_t> payload) {
  if (closed_) return;
  const clearvm_frame header{static_cast<uint32_t>(payload.size()), type, 0, process};
  const auto bytes = BytesOf(header);
  outgoing_.insert(outgoing_.end(), bytes.begin(), bytes.end());
  outgoing_.insert(outgoing_.end(), payload.begin(), payload.end());
  Write();
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
  const bool want_write = !outgoing_.empty();
  if (want_write != watching_write_) {
    watching_write_ = want_write;
    // It fails only for an fd that is not watched, which this one is until it is closed.
    (void)loop_->Modify(socket_.get(), want_write ? EPOLLIN | EPOLLOUT : EPOLLIN);
  }
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
