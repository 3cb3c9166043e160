// Packets of virtio-vsock (virtio 1.2 section 5.10.6), and the buffers that they lie in.
#ifndef CLEARVM_VIRTIO_VSOCK_PACKET_H_
#define CLEARVM_VIRTIO_VSOCK_PACKET_H_

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "native/virtio/buffers.h"

namespace clearvm::virtio {

// Little-endian, as the guest sees it.
struct [[gnu::packed]] VsockHeader {
  uint64_t src_cid;
  uint64_t dst_cid;
  uint32_t src_port;
  uint32_t dst_port;
  uint32_t len;
  uint16_t type;
  uint16_t op;
  uint32_t flags;
  uint32_t buf_alloc;
  uint32_t fwd_cnt;
};
static_assert(sizeof(VsockHeader) == 44);

inline constexpr uint64_t kHostCid = 2;
inline constexpr uint16_t kVsockStream = 1;

enum VsockOp : uint16_t {
  kOpRequest = 1,
  kOpResponse = 2,
  kOpRst = 3,
  kOpShutdown = 4,
  kOpRw = 5,
  kOpCreditUpdate = 6,
  kOpCreditRequest = 7,
};

// Flags of kOpShutdown: the sender will not receive, or send, any more.
inline constexpr uint32_t kShutdownReceive = 1;
inline constexpr uint32_t kShutdownSend = 2;
inline constexpr uint32_t kShutdownBoth = kShutdownReceive | kShutdownSend;

// A bounded queue of bytes. Its storage is allocated when it is first used.
class ByteRing {
 public:
  explicit ByteRing(size_t capacity) : capacity_(capacity) {}

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

  // Appends `size` bytes, at most capacity - size().
  void Append(const void* from, size_t size) {
    if (bytes_ == nullptr) bytes_ = std::make_unique_for_overwrite<uint8_t[]>(capacity_);
    const size_t tail = (head_ + size_) % capacity_;
    const size_t first = std::min(size, capacity_ - tail);
    std::memcpy(bytes_.get() + tail, from, first);
    std::memcpy(bytes_.get(), static_cast<const uint8_t*>(from) + first, size - first);
    size_ += size;
  }

  // The content, in order; returns how many of `parts` it takes.
  size_t Content(iovec (&parts)[2]) const {
    const size_t first = std::min(size_, capacity_ - head_);
    parts[0] = {bytes_.get() + head_, first};
    parts[1] = {bytes_.get(), size_ - first};
    return size_ == first ? 1 : 2;
  }

  void Consume(size_t size) {
    head_ = (head_ + size) % capacity_;
    size_ -= size;
    if (size_ == 0) head_ = 0;  // so that a ring which never fills up touches few pages
  }

  void Clear() {
    bytes_.reset();
    head_ = size_ = 0;
  }

 private:
  size_t capacity_;
  std::unique_ptr<uint8_t[]> bytes_;
  size_t head_ = 0;
  size_t size_ = 0;
};

}  // namespace clearvm::virtio

#endif  // CLEARVM_VIRTIO_VSOCK_PACKET_H_
