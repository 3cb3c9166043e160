// CRC-32C (Castagnoli; RFC 3720 appendix B.4): finds every single flipped bit, and costs one
// instruction for eight bytes where the processor has it.
#ifndef CLEARVM_BASE_CRC32C_H_
#define CLEARVM_BASE_CRC32C_H_

#include <cstdint>
#include <span>

namespace clearvm {

// The checksum of `bytes` behind those whose checksum is `before`.
uint32_t Crc32c(std::span<const uint8_t> bytes, uint32_t before = 0);

}  // namespace clearvm

#endif  // CLEARVM_BASE_CRC32C_H_
