// Length-prefixed frames (struct clearvm_frame of protocol/agent.h) over a stream socket.
#ifndef CLEARVM_VMM_FRAME_CHANNEL_H_
#define CLEARVM_VMM_FRAME_CHANNEL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include "native/base/event_loop.h"
#include "native/base/fd.h"
#include "native/protocol/agent.h"

namespace clearvm::vmm {

// Cuts a byte stream into frames. Payloads over `max_payload` bytes and a non-zero reserved field
// are errors.
class FrameParser {
 public:
  explicit FrameParser(uint32_t max_payload) : max_payload_(max_payload) {}

  using OnFrame =
      std::function<void(const clearvm_frame& header, std::span<const uint8_t> payload)>;
  // Takes `bytes` and reports every frame that they complete. Errors: ERR_FRAME; the parser is dead
  // after one.
  Result<void> Feed(std::span<const uint8_t> bytes, const OnFrame& on_frame);

 private:
  uint32_t max_payload_;
  std::vector<uint8_t> buffer_;
};

// Both directions on one connected stream socket. Used on the loop's thread only.
class FrameChannel {
 public:
  struct Handlers {
    FrameParser::OnFrame on_frame;
    // The peer has closed (an empty message), or broken the protocol. Called once; nothing is
    // called after it.
    std::function<void(const Error&)> on_close;
  };

  // `max_payload`: of a received frame, bytes. Errors: epoll_ctl(2)'s.
  static Result<std::unique_ptr<FrameChannel>> Create(UniqueFd socket, uint32_t max_payload,
                                                      EventLoop* loop, Handlers handlers);
  ~FrameChannel();

  // Queues a frame; it is written at once as far as the socket takes it. Dropped after the channel
  // has closed.
  void Send(uint16_t type, uint32_t process, std::span<const uint8_t> payload);

  // Writes out what is queued, waiting for the peer for at most `timeout_ms`.
  void Flush(int timeout_ms);

 private:
  FrameChannel(UniqueFd socket, uint32_t max_payload, EventLoop* loop, Handlers handlers);
  void HandleEvents(uint32_t events);
  void Write();
  void Close(Error error);

  UniqueFd socket_;
  EventLoop* loop_;
  Handlers handlers_;
  FrameParser parser_;
  std::vector<uint8_t> outgoing_;
  bool watching_write_ = false;
  bool closed_ = false;
};

// The bytes of a plain structure or integer, for a payload.
template <typename T>
requires(!std::is_convertible_v<const T&, std::string_view>) std::span<const uint8_t> BytesOf(
    const T& value) {
  return {reinterpret_cast<const uint8_t*>(&value), sizeof value};
}
inline std::span<const uint8_t> BytesOf(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

}  // namespace clearvm::vmm

#endif  // CLEARVM_VMM_FRAME_CHANNEL_H_
