// The last of what the guest kernel has said.
#ifndef CLEARVM_VMM_KERNEL_LOG_H_
#define CLEARVM_VMM_KERNEL_LOG_H_

#include <cstdint>
#include <mutex>
#include <span>
#include <string>

namespace clearvm::vmm {

// Keeps the last bytes of the guest's console and, apart from it, of the log that a panicking
// kernel dumps. Any thread.
class KernelLog {
 public:
  void AppendConsole(std::span<const uint8_t> bytes) { Append(console_, bytes); }
  void AppendPanic(std::span<const uint8_t> bytes) { Append(panic_, bytes); }
  // The dump where there is one (it holds all that the console would show), else the console; whole
  // lines, at most `limit` bytes.
  std::string Tail(size_t limit) const;

 private:
  static constexpr size_t kKept = 16 * 1024;  // bytes
  void Append(std::string& text, std::span<const uint8_t> bytes);

  mutable std::mutex mutex_;
  std::string console_;
  std::string panic_;
};

}  // namespace clearvm::vmm

#endif  // CLEARVM_VMM_KERNEL_LOG_H_
