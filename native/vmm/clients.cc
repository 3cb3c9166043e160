#include "native/vmm/clients.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>

namespace clearvm::vmm {
namespace {

// Clients accepted before the loop's other events have their turn.
constexpr int kAcceptBudget = 16;
// Replies that wait for a client, in bytes, before it is not heard any more.
constexpr size_t kMaxQueued = 64 * 1024;

// Tells a client that there are too many. Its socket's buffer is empty, so this does not wait.
void Refuse(const UniqueFd& socket) {
  constexpr std::string_view kText = "the VMM has too many clients: try again";
  const uint32_t error = EAGAIN;
  const clearvm_frame header{sizeof error + kText.size(), CLEARVM_CONTROL_REPLY, 0, 0};
  std::array<uint8_t, sizeof header + sizeof error + kText.size()> bytes;
  std::memcpy(bytes.data(), &header, sizeof header);
  std::memcpy(bytes.data() + sizeof header, &error, sizeof error);
  std::memcpy(bytes.data() + sizeof header + sizeof error, kText.data(), kText.size());
  [[maybe_unused]] ssize_t sent =
      ::send(socket.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

}  // namespace

Result<std::unique_ptr<Clients>> Clients::Listen(UniqueFd listener, EventLoop* loop,
                                                 Handlers handlers) {
  const int flags = ::fcntl(listener.get(), F_GETFL);
  if (flags < 0 || ::fcntl(listener.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
    return SystemError("ERR_VMM_LISTEN", "fcntl", "cannot use the listening socket");
  }
  std::unique_ptr<Clients> clients(new Clients(std::move(listener), loop, std::move(handlers)));
  Clients* self = clients.get();
  // Edge-triggered: one that cannot be accepted, for want of descriptors, must not keep the loop
  // busy. The next one to come has it looked at again.
  CLEARVM_RETURN_IF_ERROR(
      loop->Add(clients->listener_.get(), EPOLLIN | EPOLLET, [self](uint32_t) { self->Accept(); }));
  return clients;
}

Clients::~Clients() { loop_->Remove(listener_.get()); }

void Clients::Accept() {
  for (int i = 0; i < kAcceptBudget; i++) {
    UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket.valid()) {
      if (errno == ECONNABORTED || errno == EINTR) continue;
      return;
    }
    if (channels_.size() < CLEARVM_CLIENTS_MAX) {
      Add(std::move(socket));
    } else {
      Refuse(socket);
    }
  }
  loop_->Post([this] { Accept(); });
}

void Clients::Add(UniqueFd socket) {
  const uint64_t id = ++last_id_;
  auto& channel = channels_[id];
  auto created = FrameChannel::Create(
      std::move(socket), CLEARVM_FRAME_MAX, loop_,
      {[this, &channel](const clearvm_frame& frame, std::span<const uint8_t> payload) {
         handlers_.on_request(channel.get(), frame, payload);
       },
       [this, id, &channel](const Error&) {
         handlers_.on_gone(channel.get());
         // It is its own caller.
         loop_->Post([this, id] { channels_.erase(id); });
       }},
      {.takes_fds = true, .max_queued = kMaxQueued});
  if (created.ok()) {
    channel = std::move(created).value();
  } else {
    channels_.erase(id);
  }
}

}  // namespace clearvm::vmm
