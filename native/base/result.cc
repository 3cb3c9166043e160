#include "native/base/result.h"

#include <cstring>

namespace clearvm {

Error SystemError(std::string code, std::string syscall, std::string message) {
  const int saved = errno;
  message += ": ";
  message += std::strerror(saved);
  return Error{std::move(code), saved, std::move(syscall), std::move(message)};
}

}  // namespace clearvm
