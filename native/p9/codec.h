// Reading and writing messages: scattered buffers, a decoder and an encoder of 9P's little-endian
// fields.
#ifndef CLEARVM_P9_CODEC_H_
#define CLEARVM_P9_CODEC_H_

#include <sys/uio.h>

#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "native/p9/protocol.h"

namespace clearvm::p9 {

using Scattered = std::span<const iovec>;

// Bytes in all of `buffers`, saturating.
size_t TotalBytes(Scattered buffers);

// Copies `size` bytes from byte `offset` of `buffers` to `to`; returns how many there were.
size_t CopyFrom(Scattered buffers, size_t offset, void* to, size_t size);

// Copies `size` bytes from `from` to byte `offset` of `buffers`; returns how many had room.
size_t CopyTo(Scattered buffers, size_t offset, const void* from, size_t size);

// Writes to `out` the parts of `buffers` that hold the `size` bytes from `offset`. Returns the
// parts used; fewer bytes are covered where out or buffers end first.
size_t Slice(Scattered buffers, size_t offset, size_t size, std::span<iovec> out);

// Takes fields off a message that has been copied out of the client's reach. The first field that
// is not there whole makes this and all later ones zero or empty, and ok() false: check it once,
// when all are taken.
class Decoder {
 public:
  explicit Decoder(std::span<const uint8_t> bytes) : bytes_(bytes) {}

  uint8_t U8() { return Number<uint8_t>(); }
  uint16_t U16() { return Number<uint16_t>(); }
  uint32_t U32() { return Number<uint32_t>(); }
  uint64_t U64() { return Number<uint64_t>(); }
  std::string_view String();

  bool ok() const { return ok_; }
  // Every field was there and nothing is left over.
  bool Complete() const { return ok_ && position_ == bytes_.size(); }

 private:
  template <typename T>
  T Number() {
    T value = 0;
    if (!Take(sizeof(T))) return value;
    std::memcpy(&value, bytes_.data() + position_ - sizeof(T), sizeof(T));
    return value;
  }
  bool Take(size_t size);

  std::span<const uint8_t> bytes_;
  size_t position_ = 0;
  bool ok_ = true;
};

// Puts fields into a buffer of fixed size. A field that does not fit makes ok() false and is left
// out.
class Encoder {
 public:
  Encoder() = default;
  explicit Encoder(std::span<uint8_t> space) : space_(space) {}

  void U8(uint8_t value) { Put(&value, sizeof(value)); }
  void U16(uint16_t value) { Put(&value, sizeof(value)); }
  void U32(uint32_t value) { Put(&value, sizeof(value)); }
  void U64(uint64_t value) { Put(&value, sizeof(value)); }
  void String(std::string_view value);
  void PutQid(const Qid& qid);

  bool ok() const { return ok_; }
  size_t size() const { return size_; }
  size_t room() const { return space_.size() - size_; }
  uint8_t* data() const { return space_.data(); }

 private:
  void Put(const void* from, size_t size);

  std::span<uint8_t> space_;
  size_t size_ = 0;
  bool ok_ = true;
};

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "9P is little-endian, and so is this codec");

}  // namespace clearvm::p9

#endif  // CLEARVM_P9_CODEC_H_
