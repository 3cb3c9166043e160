// Copying to and from the buffers of a descriptor chain.
#ifndef CLEARVM_VIRTIO_BUFFERS_H_
#define CLEARVM_VIRTIO_BUFFERS_H_

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace clearvm::virtio {

// Copies `size` bytes from the start of `buffers`, which hold at least as many.
inline void CopyFrom(std::span<const iovec> buffers, void* to, size_t size) {
  auto* out = static_cast<uint8_t*>(to);
  for (size_t i = 0; size != 0; i++) {
    const size_t part = std::min(buffers[i].iov_len, size);
    std::memcpy(out, buffers[i].iov_base, part);
    out += part;
    size -= part;
  }
  // The source is guest memory: the compiler must not read it again in place of the copy.
  asm volatile("" ::: "memory");
}

// Copies `size` bytes to the start of `buffers`, which have room for them.
inline void CopyTo(std::span<const iovec> buffers, const void* from, size_t size) {
  auto* in = static_cast<const uint8_t*>(from);
  for (size_t i = 0; size != 0; i++) {
    const size_t part = std::min(buffers[i].iov_len, size);
    std::memcpy(buffers[i].iov_base, in, part);
    in += part;
    size -= part;
  }
}

// Appends to `out` what `buffers` hold from byte `offset` on, `size` bytes at most. Returns how
// many those are.
inline size_t AppendSlice(std::span<const iovec> buffers, size_t offset, size_t size,
                          std::vector<iovec>* out) {
  size_t total = 0;
  for (const iovec& buffer : buffers) {
    if (offset >= buffer.iov_len) {
      offset -= buffer.iov_len;
      continue;
    }
    const size_t part = std::min(buffer.iov_len - offset, size - total);
    if (part == 0) break;
    out->push_back({static_cast<uint8_t*>(buffer.iov_base) + offset, part});
    total += part;
    offset = 0;
  }
  return total;
}

}  // namespace clearvm::virtio

#endif  // CLEARVM_VIRTIO_BUFFERS_H_
