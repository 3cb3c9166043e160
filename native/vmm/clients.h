// Who has connected to the VMM's listening socket (protocol/control.h).
#ifndef CLEARVM_VMM_CLIENTS_H_
#define CLEARVM_VMM_CLIENTS_H_

#include <functional>
#include <memory>
#include <span>
#include <unordered_map>

#include "native/base/event_loop.h"
#include "native/protocol/control.h"
#include "native/vmm/frame_channel.h"

namespace clearvm::vmm {

// Any of them may be hostile: none can hold up another, or the loop, whose thread all of this is
// for.
class Clients {
 public:
  struct Handlers {
    std::function<void(FrameChannel* from, const clearvm_frame& frame,
                       std::span<const uint8_t> payload)>
        on_request;
    // Its last moment: the channel is gone afterwards.
    std::function<void(FrameChannel* from)> on_gone;
  };

  // Takes a listening Unix stream socket. Errors: fcntl(2)'s, epoll_ctl(2)'s.
  static Result<std::unique_ptr<Clients>> Listen(UniqueFd listener, EventLoop* loop,
                                                 Handlers handlers);
  ~Clients();

 private:
  Clients(UniqueFd listener, EventLoop* loop, Handlers handlers)
      : listener_(std::move(listener)), loop_(loop), handlers_(std::move(handlers)) {}
  void Accept();
  void Add(UniqueFd socket);

  UniqueFd listener_;
  EventLoop* const loop_;
  const Handlers handlers_;
  std::unordered_map<uint64_t, std::unique_ptr<FrameChannel>> channels_;
  uint64_t last_id_ = 0;
};

}  // namespace clearvm::vmm

#endif  // CLEARVM_VMM_CLIENTS_H_
