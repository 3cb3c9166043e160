// Plain structures as a run of bytes and back: how snapshots are written.
#ifndef CLEARVM_BASE_BYTES_H_
#define CLEARVM_BASE_BYTES_H_

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace clearvm {

// Appends values as they lie in memory. Structures with padding must be zeroed first.
class ByteWriter {
 public:
  template <typename T>
  requires std::is_trivially_copyable_v<T>
  void Put(const T& value) { PutBytes({reinterpret_cast<const uint8_t*>(&value), sizeof value}); }
  void PutBytes(std::span<const uint8_t> more) {
    bytes_.insert(bytes_.end(), more.begin(), more.end());
  }
  // The number of them first.
  template <typename T>
  void PutList(std::span<const T> list) {
    Put(static_cast<uint32_t>(list.size()));
    PutBytes({reinterpret_cast<const uint8_t*>(list.data()), list.size_bytes()});
  }

  std::span<const uint8_t> bytes() const { return bytes_; }

 private:
  std::vector<uint8_t> bytes_;
};

// Takes values from bytes that may be anything: what is not there reads as zeros, and ok() is false
// from then on.
class ByteReader {
 public:
  explicit ByteReader(std::span<const uint8_t> bytes) : bytes_(bytes) {}

  template <typename T>
  requires std::is_trivially_copyable_v<T> T Take() {
    T value{};
    const std::span<const uint8_t> from = TakeBytes(sizeof value);
    if (!from.empty()) std::memcpy(&value, from.data(), sizeof value);
    return value;
  }
  // Empty where there are fewer than `size`.
  std::span<const uint8_t> TakeBytes(size_t size) {
    ok_ = ok_ && size <= bytes_.size();
    if (!ok_) return {};
    const std::span<const uint8_t> taken = bytes_.first(size);
    bytes_ = bytes_.subspan(size);
    return taken;
  }
  // A list of at most `most` values; a longer one is an error.
  template <typename T>
  std::vector<T> TakeList(size_t most) {
    const auto count = Take<uint32_t>();
    ok_ = ok_ && count <= most;
    const std::span<const uint8_t> from = TakeBytes(ok_ ? count * sizeof(T) : 0);
    std::vector<T> list(from.size() / sizeof(T));
    if (!list.empty()) std::memcpy(list.data(), from.data(), from.size());
    return list;
  }

  bool ok() const { return ok_; }
  // Whether everything has been taken, and was there.
  bool Finished() const { return ok_ && bytes_.empty(); }

 private:
  std::span<const uint8_t> bytes_;
  bool ok_ = true;
};

}  // namespace clearvm

#endif  // CLEARVM_BASE_BYTES_H_
