#include "native/monitor/client.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>

#include "native/protocol/monitor.h"

namespace clearvm::monitor {

Client::Client(UniqueFd socket, EventLoop* loop, Handlers handlers)
    : socket_(std::move(socket)),
      loop_(loop),
      handlers_(std::move(handlers)),
      parser_(CLEARVM_MONITOR_FRAME_MAX) {}

Result<std::shared_ptr<Client>> Client::Create(UniqueFd socket, EventLoop* loop,
                                               Handlers handlers) {
  std::shared_ptr<Client> client(new Client(std::move(socket), loop, std::move(handlers)));
  Client* self = client.get();
  self->watched_ = EPOLLIN;
  CLEARVM_RETURN_IF_ERROR(loop->Add(self->socket_.get(), EPOLLIN,
                                    [self](uint32_t events) { self->HandleEvents(events); }));
  return client;
}

void Client::HandleEvents(uint32_t events) {
  if ((events & EPOLLOUT) != 0) {
    Write();
    if (socket_.valid() && handlers_.on_drained) handlers_.on_drained(*this);
  }
  if (socket_.valid() && (events & (EPOLLHUP | EPOLLERR)) != 0 && !reading_) return Fail();
  if (socket_.valid() && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 && reading_) Read();
}

void Client::Read() {
  std::array<uint8_t, 16384> chunk;
  const ssize_t got = ::recv(socket_.get(), chunk.data(), chunk.size(), MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) return Fail();
  const auto fed =
      parser_.Feed(std::span<const uint8_t>(chunk).first(static_cast<size_t>(got)),
                   [this](const clearvm_frame& frame, std::span<const uint8_t> payload) {
                     // One frame may have ended the connection, with others behind it.
                     if (socket_.valid()) handlers_.on_frame(*this, frame, payload);
                   });
  if (!fed.ok()) Fail();
}

void Client::Send(uint16_t type, uint32_t request, std::span<const uint8_t> payload) {
  if (!socket_.valid()) return;
  const clearvm_frame header{static_cast<uint32_t>(payload.size()), type, 0, request};
  const auto bytes = vmm::BytesOf(header);
  queue_.insert(queue_.end(), bytes.begin(), bytes.end());
  queue_.insert(queue_.end(), payload.begin(), payload.end());
  Write();
}

void Client::Reply(uint32_t request, int error, std::string_view message) {
  std::vector<uint8_t> payload;
  const auto number = static_cast<uint32_t>(error);
  const auto bytes = vmm::BytesOf(number);
  payload.insert(payload.end(), bytes.begin(), bytes.end());
  payload.insert(payload.end(), message.begin(), message.end());
  Send(CLEARVM_MONITOR_REPLY, request, payload);
}

void Client::SetReading(bool reading) {
  reading_ = reading;
  Watch();
}

void Client::Write() {
  while (sent_ < queue_.size()) {
    const ssize_t wrote = ::send(socket_.get(), queue_.data() + sent_, queue_.size() - sent_,
                                 MSG_DONTWAIT | MSG_NOSIGNAL);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0 && errno == EAGAIN) break;
    // A client that is gone is noticed when it is read from.
    if (wrote < 0)
      sent_ = queue_.size();
    else
      sent_ += static_cast<size_t>(wrote);
  }
  if (sent_ == queue_.size()) {
    queue_.clear();
    sent_ = 0;
  } else if (sent_ > queue_.size() / 2) {
    queue_.erase(queue_.begin(), queue_.begin() + static_cast<ptrdiff_t>(sent_));
    sent_ = 0;
  }
  Watch();
}

void Client::Watch() {
  const uint32_t wanted = (reading_ ? EPOLLIN : 0u) | (queued() > 0 ? EPOLLOUT : 0u);
  if (!socket_.valid() || wanted == watched_) return;
  watched_ = wanted;
  // It fails only for an fd that is not watched, which this one is until it is closed.
  (void)loop_->Modify(socket_.get(), wanted);
}

void Client::FlushAll(std::span<const std::shared_ptr<Client>> clients) {
  for (;;) {
    std::vector<pollfd> waiting;
    for (const auto& client : clients) {
      if (!client->socket_.valid()) continue;
      client->Write();
      if (client->queued() > 0) waiting.push_back({client->socket_.get(), POLLOUT, 0});
    }
    if (waiting.empty()) return;
    ::poll(waiting.data(), waiting.size(), -1);
  }
}

void Client::Close() {
  if (!socket_.valid()) return;
  loop_->Remove(socket_.get());
  socket_.reset();
}

void Client::Fail() {
  if (!socket_.valid()) return;
  Close();
  handlers_.on_close(*this);
}

}  // namespace clearvm::monitor
