#include "native/boot/read.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace clearvm::boot {

Result<void> ReadExactly(int fd, uint64_t offset, std::span<uint8_t> out, const char* code,
                         const std::string& what) {
  while (!out.empty()) {
    const ssize_t got = ::pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return SystemError(code, "pread", "cannot read " + what);
    if (got == 0) {
      return Error{code, 0, "",
                   what + " ends at byte " + std::to_string(offset) + ", " +
                       std::to_string(out.size()) + " bytes too early: it is cut short"};
    }
    offset += static_cast<uint64_t>(got);
    out = out.subspan(static_cast<size_t>(got));
  }
  return {};
}

Result<uint64_t> FileSize(int fd, const char* code, const std::string& what) {
  struct stat status = {};
  if (::fstat(fd, &status) != 0) return SystemError(code, "fstat", "cannot read " + what);
  if (!S_ISREG(status.st_mode)) return Error{code, 0, "", what + " is not a regular file"};
  return static_cast<uint64_t>(status.st_size);
}

}  // namespace clearvm::boot
