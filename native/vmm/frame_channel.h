// Length-prefixed frames (struct clearvm_frame of protocol/agent.h) over a stream socket.
#ifndef CLEARVM_VMM_FRAME_CHANNEL_H_
#define CLEARVM_VMM_FRAME_CHANNEL_H_

#include <sys/types.h>

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
  // Whether no frame has begun.
  bool idle() const { return buffer_.empty(); }

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

  struct Options {
    // Takes file descriptors (SCM_RIGHTS) that come with frames; else they are lost.
    bool takes_fds = false;
    // Bytes queued beyond which nothing is read: who does not listen is not heard.
    size_t max_queued = SIZE_MAX;
  };
  // `max_payload`: of a received frame, bytes. Errors: epoll_ctl(2)'s.
  static Result<std::unique_ptr<FrameChannel>> Create(UniqueFd socket, uint32_t max_payload,
                                                      EventLoop* loop, Handlers handlers,
                                                      Options options);
  static Result<std::unique_ptr<FrameChannel>> Create(UniqueFd socket, uint32_t max_payload,
                                                      EventLoop* loop, Handlers handlers) {
    return Create(std::move(socket), max_payload, loop, std::move(handlers), Options());
  }
  ~FrameChannel();

  // Queues a frame; it is written at once as far as the socket takes it. Dropped after the channel
  // has closed.
  // `fds`: descriptors that go with its first byte (SCM_RIGHTS), at most 3, and only while nothing
  // is queued.
  void Send(uint16_t type, uint32_t process, std::span<const uint8_t> payload,
            std::span<const int> fds = {});

  // Bytes that the peer has yet to take.
  size_t queued() const { return outgoing_.size(); }
  // Whether nothing is half sent or half received.
  bool idle() const { return outgoing_.empty() && parser_.idle(); }
  // The next `count` file descriptors that came; none where there are fewer.
  std::vector<UniqueFd> TakeFds(size_t count);
  // Takes what lies in the socket already: what a peer that is gone has said last.
  void ReadAll();

  // Writes out what is queued, waiting for the peer for at most `timeout_ms`.
  void Flush(int timeout_ms);

 private:
  FrameChannel(UniqueFd socket, uint32_t max_payload, EventLoop* loop, Handlers handlers,
               Options options);
  void HandleEvents(uint32_t events);
  ssize_t Receive(std::span<uint8_t> bytes);
  // False: there was nothing to read.
  bool Read();
  void Write();
  void SendFds(std::span<const int> fds);
  void Close(Error error);

  UniqueFd socket_;
  EventLoop* loop_;
  Handlers handlers_;
  FrameParser parser_;
  const Options options_;
  std::vector<uint8_t> outgoing_;
  std::vector<UniqueFd> fds_;
  uint32_t watched_;
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
