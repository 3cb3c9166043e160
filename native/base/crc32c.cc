#include "native/base/crc32c.h"

#include <nmmintrin.h>

#include <array>
#include <cstring>

namespace clearvm {
namespace {

constexpr uint32_t kPolynomial = 0x82f6'3b78;  // bits reversed

constexpr std::array<uint32_t, 256> kTable = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < table.size(); i++) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ ((crc & 1) != 0 ? kPolynomial : 0);
    table[i] = crc;
  }
  return table;
}();

__attribute__((target("sse4.2"))) uint32_t ByInstruction(std::span<const uint8_t> bytes,
                                                         uint32_t crc) {
  uint64_t wide = crc;
  const uint8_t* at = bytes.data();
  size_t left = bytes.size();
  for (; left >= 8; left -= 8, at += 8) {
    uint64_t word;
    std::memcpy(&word, at, sizeof word);
    wide = _mm_crc32_u64(wide, word);
  }
  crc = static_cast<uint32_t>(wide);
  for (; left > 0; left--, at++) crc = _mm_crc32_u8(crc, *at);
  return crc;
}

uint32_t ByTable(std::span<const uint8_t> bytes, uint32_t crc) {
  for (const uint8_t byte : bytes) crc = crc >> 8 ^ kTable[(crc ^ byte) & 0xff];
  return crc;
}

}  // namespace

uint32_t Crc32c(std::span<const uint8_t> bytes, uint32_t before) {
  // Processors with VT-x but without SSE4.2 exist (Penryn).
  static const bool has_instruction = __builtin_cpu_supports("sse4.2") != 0;
  return ~(has_instruction ? ByInstruction(bytes, ~before) : ByTable(bytes, ~before));
}

}  // namespace clearvm
