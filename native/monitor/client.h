// One connection to the monitor's socket.
#ifndef CLEARVM_MONITOR_CLIENT_H_
#define CLEARVM_MONITOR_CLIENT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "native/base/event_loop.h"
#include "native/base/fd.h"
#include "native/vmm/frame_channel.h"

namespace clearvm::monitor {

// Frames in both directions. What a client is sent waits in its own queue: whoever sends looks at
// how long that is, so that one slow client holds up nobody but those who chose to wait for it.
class Client {
 public:
  struct Handlers {
    std::function<void(Client&, const clearvm_frame&, std::span<const uint8_t>)> on_frame;
    // The client is gone, or has broken the protocol. Called once, and nothing after it.
    std::function<void(Client&)> on_close;
    // The queue has become shorter.
    std::function<void(Client&)> on_drained;
  };

  // Errors: epoll_ctl(2)'s.
  static Result<std::shared_ptr<Client>> Create(UniqueFd socket, EventLoop* loop,
                                                Handlers handlers);
  ~Client() { Close(); }

  // Queues a frame; after the end it does nothing.
  void Send(uint16_t type, uint32_t request, std::span<const uint8_t> payload);
  void Reply(uint32_t request, int error, std::string_view message);
  // Bytes that the client has not taken yet.
  size_t queued() const { return queue_.size() - sent_; }
  // Whether its frames are read. What is not read waits in the socket, and then at the client.
  void SetReading(bool reading);
  // Takes what has come already, as if the loop had said so.
  void ReadNow() { Read(); }
  // Writes out what is queued for all of them, however long a reader takes: it is what a container
  // has said. Those that are gone are not waited for.
  static void FlushAll(std::span<const std::shared_ptr<Client>> clients);
  void Close();

  // What it has asked for: the monitor's to use.
  uint32_t attached = 0;  // CLEARVM_ATTACH_*
  bool waits = false;
  std::vector<uint32_t> stops;  // requests to be answered when the container has ended

 private:
  Client(UniqueFd socket, EventLoop* loop, Handlers handlers);
  void HandleEvents(uint32_t events);
  void Read();
  void Write();
  void Watch();
  void Fail();

  UniqueFd socket_;
  EventLoop* loop_;
  Handlers handlers_;
  vmm::FrameParser parser_;
  std::vector<uint8_t> queue_;
  size_t sent_ = 0;  // of the queue
  bool reading_ = true;
  uint32_t watched_ = 0;
};

}  // namespace clearvm::monitor

#endif  // CLEARVM_MONITOR_CLIENT_H_
