// Small things about payloads of frames.
#ifndef CLEARVM_VMM_TEXT_H_
#define CLEARVM_VMM_TEXT_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace clearvm::vmm {

inline void Append(std::vector<uint8_t>& bytes, std::span<const uint8_t> more) {
  bytes.insert(bytes.end(), more.begin(), more.end());
}

// Text from the guest, made safe for a terminal.
inline std::string Printable(std::span<const uint8_t> bytes) {
  std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return text;
}

}  // namespace clearvm::vmm

#endif  // CLEARVM_VMM_TEXT_H_
