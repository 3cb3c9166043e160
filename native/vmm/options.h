// The command line of clearvm-vmm.
#ifndef CLEARVM_VMM_OPTIONS_H_
#define CLEARVM_VMM_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "native/base/result.h"
#include "native/jail/jail.h"
#include "native/p9/server.h"

namespace clearvm::vmm {

// A file named on the command line, by path or by an inherited descriptor.
struct FileOption {
  int fd = -1;
  std::string path;
  bool given() const { return fd >= 0 || !path.empty(); }
};

enum class JailMode { kNone, kSelf, kSpawned };
enum class BackingOption { kAuto, kMemfd, kAnonymous };

// One 9p export: its mount tag, and what it serves (an entry of Options::jail_plan).
struct ExportOption {
  std::string tag;
  bool overlay;  // else a share
  size_t index;  // into jail_plan.overlays or .shares
  bool read_only;
  p9::Ownership ownership;
};

struct Options {
  bool help = false;
  bool version = false;
  bool probe = false;
  int control_fd = -1;
  FileOption kernel;
  FileOption initrd;
  FileOption spec;
  uint32_t cpus = 1;
  uint64_t memory = 128ull << 20;  // bytes
  BackingOption backing = BackingOption::kAuto;
  std::string command_line;
  std::vector<ExportOption> exports;
  jail::Plan jail_plan;
  int stdin_fd = -1;
  int stdout_fd = -1;
  int stderr_fd = -1;
  int console_fd = -1;
  std::string vsock_path;
  bool debug = false;
  bool boot_only = false;   // end when init is ready, and print the timeline
  bool statistics = false;  // count exits until init, for METRICS
  JailMode jail = JailMode::kSelf;
};

inline constexpr uint32_t kMaxCpus = 32;
inline constexpr uint64_t kMinMemory = 32ull << 20;  // bytes; less does not boot the guest kernel
inline constexpr uint64_t kMaxMemory = 1ull << 40;   // bytes
inline constexpr size_t kMaxExports = 32;

// Parses and validates the whole command line, and that the fds it names are open. Opens nothing.
// Errors: ERR_VMM_OPTION, whose message names the option.
Result<Options> ParseOptions(int argc, char** argv);

// What --help prints.
extern const char kUsage[];

}  // namespace clearvm::vmm

#endif  // CLEARVM_VMM_OPTIONS_H_
