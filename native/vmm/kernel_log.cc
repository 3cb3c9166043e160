#include "native/vmm/kernel_log.h"

namespace clearvm::vmm {

void KernelLog::Append(std::string& text, std::span<const uint8_t> bytes) {
  std::lock_guard lock(mutex_);
  if (bytes.size() > kKept) bytes = bytes.last(kKept);
  text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  // Halved only now and then, so that a long log does not move at every byte.
  if (text.size() > 2 * kKept) text.erase(0, text.size() - kKept);
}

std::string KernelLog::Tail(size_t limit) const {
  std::lock_guard lock(mutex_);
  const std::string& text = panic_.empty() ? console_ : panic_;
  if (text.size() <= limit) return text;
  const size_t line = text.find('\n', text.size() - limit);
  return line == std::string::npos ? text.substr(text.size() - limit) : text.substr(line + 1);
}

}  // namespace clearvm::vmm
