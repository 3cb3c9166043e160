#include "native/p9/codec.h"

#include <algorithm>
#include <limits>

namespace clearvm::p9 {
namespace {

// Calls `visit(part, bytes before it)` for each part of the `size` bytes of `buffers` from
// `offset`.
template <typename Visit>
size_t ForEachPart(Scattered buffers, size_t offset, size_t size, Visit visit) {
  size_t done = 0;
  for (const iovec& buffer : buffers) {
    if (done == size) break;
    if (offset >= buffer.iov_len) {
      offset -= buffer.iov_len;
      continue;
    }
    const size_t length = std::min(buffer.iov_len - offset, size - done);
    if (!visit(iovec{static_cast<uint8_t*>(buffer.iov_base) + offset, length}, done)) break;
    done += length;
    offset = 0;
  }
  return done;
}

}  // namespace

size_t TotalBytes(Scattered buffers) {
  size_t total = 0;
  for (const iovec& buffer : buffers) {
    if (__builtin_add_overflow(total, buffer.iov_len, &total)) {
      return std::numeric_limits<size_t>::max();
    }
  }
  return total;
}

size_t CopyFrom(Scattered buffers, size_t offset, void* to, size_t size) {
  return ForEachPart(buffers, offset, size, [to](iovec part, size_t before) {
    std::memcpy(static_cast<uint8_t*>(to) + before, part.iov_base, part.iov_len);
    return true;
  });
}

size_t CopyTo(Scattered buffers, size_t offset, const void* from, size_t size) {
  return ForEachPart(buffers, offset, size, [from](iovec part, size_t before) {
    std::memcpy(part.iov_base, static_cast<const uint8_t*>(from) + before, part.iov_len);
    return true;
  });
}

size_t Slice(Scattered buffers, size_t offset, size_t size, std::span<iovec> out) {
  size_t used = 0;
  ForEachPart(buffers, offset, size, [&](iovec part, size_t) {
    if (used == out.size()) return false;
    out[used++] = part;
    return true;
  });
  return used;
}

bool Decoder::Take(size_t size) {
  if (!ok_ || bytes_.size() - position_ < size) {
    ok_ = false;
    return false;
  }
  position_ += size;
  return true;
}

std::string_view Decoder::String() {
  const uint16_t size = U16();
  if (!Take(size)) return {};
  return {reinterpret_cast<const char*>(bytes_.data()) + position_ - size, size};
}

void Encoder::Put(const void* from, size_t size) {
  if (!ok_ || room() < size) {
    ok_ = false;
    return;
  }
  std::memcpy(space_.data() + size_, from, size);
  size_ += size;
}

void Encoder::String(std::string_view value) {
  U16(static_cast<uint16_t>(value.size()));
  Put(value.data(), value.size());
}

void Encoder::PutQid(const Qid& qid) {
  U8(qid.type);
  U32(qid.version);
  U64(qid.path);
}

}  // namespace clearvm::p9
