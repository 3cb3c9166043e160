// A list with room for a fixed number of items, inside itself: for what the compiler evaluates.
#ifndef CLEARVM_BASE_FIXED_LIST_H_
#define CLEARVM_BASE_FIXED_LIST_H_

#include <array>
#include <cstddef>
#include <initializer_list>

namespace clearvm {

// More than `kMost` items: a constant expression does not compile, a program ends by a trap.
template <typename T, size_t kMost>
class FixedList {
 public:
  constexpr FixedList() = default;
  constexpr FixedList(std::initializer_list<T> items) {
    for (const T& item : items) push_back(item);
  }

  constexpr void push_back(const T& item) {
    if (size_ == kMost) __builtin_trap();
    items_[size_++] = item;
  }
  constexpr void pop_back() { size_--; }

  constexpr size_t size() const { return size_; }
  constexpr bool empty() const { return size_ == 0; }
  constexpr T& operator[](size_t at) { return items_[at]; }
  constexpr const T& operator[](size_t at) const { return items_[at]; }
  constexpr const T& back() const { return items_[size_ - 1]; }
  constexpr T* begin() { return items_.data(); }
  constexpr T* end() { return items_.data() + size_; }
  constexpr const T* begin() const { return items_.data(); }
  constexpr const T* end() const { return items_.data() + size_; }
  constexpr const T* data() const { return items_.data(); }

  constexpr bool operator==(const FixedList& other) const {
    if (size_ != other.size_) return false;
    for (size_t at = 0; at < size_; at++) {
      if (!(items_[at] == other.items_[at])) return false;
    }
    return true;
  }

 private:
  std::array<T, kMost> items_{};
  size_t size_ = 0;
};

}  // namespace clearvm

#endif  // CLEARVM_BASE_FIXED_LIST_H_
