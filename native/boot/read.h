// Reading files whole.
#ifndef CLEARVM_BOOT_READ_H_
#define CLEARVM_BOOT_READ_H_

#include <cstdint>
#include <span>
#include <string>

#include "native/base/result.h"

namespace clearvm::boot {

// Fills `out` from `offset` of `fd`. Errors: `code`, also where the file ends too early; `what`
// names the file.
Result<void> ReadExactly(int fd, uint64_t offset, std::span<uint8_t> out, const char* code,
                         const std::string& what);

// The size of the regular file `fd`, bytes. Errors: `code`.
Result<uint64_t> FileSize(int fd, const char* code, const std::string& what);

}  // namespace clearvm::boot

#endif  // CLEARVM_BOOT_READ_H_
