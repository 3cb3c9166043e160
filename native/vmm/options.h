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
enum class BackingOption { kAuto, kMemfd, kAnonymous, kHugePages };

// One 9p export: its mount tag, and what it serves (an entry of Options::jail_plan).
struct ExportOption {
  std::string tag;
  bool served;   // else a device without a server behind: a template's, or to spare
  bool overlay;  // else a share
  size_t index;  // into jail_plan.overlays or .shares
  bool read_only;
  p9::Ownership ownership;
  bool window = false;  // the guest may map what does not change (native/p9/window.h)
};

struct Options {
  bool help = false;
  bool version = false;
  bool probe = false;
  int control_fd = -1;
  int listen_fd = -1;
  FileOption kernel;
  FileOption initrd;
  FileOption spec;
  uint32_t cpus = 1;
  uint32_t cpu_limit = 0;          // thousandths of a processor that they use at most; 0: no limit
  std::string cpuset;              // the host's processors to run on, as in "0-3,7"; empty: any
  uint64_t memory = 128ull << 20;  // bytes
  uint64_t balloon = 0;            // bytes of it that the guest leaves alone while it can
  BackingOption backing = BackingOption::kAuto;
  std::string command_line;
  std::vector<ExportOption> exports;
  jail::Plan jail_plan;
  bool terminal = false;  // stdin and stdout are a terminal's
  int stdin_fd = -1;
  int stdout_fd = -1;
  int stderr_fd = -1;
  int console_fd = -1;
  std::string vsock_path;
  bool debug = false;
  bool boot_only = false;  // end when init is ready, and print the timeline
  // A VM to fork, instead of booting; where it cannot be used, the VM boots.
  std::string template_path;
  std::string template_cache;   // what files begin with that are kept of it while the host is up
  std::string template_save;    // boot, write a template there, and end
  std::string restore;          // a snapshot to go on from
  std::string restore_checked;  // a file that says which snapshot's memory is known to be good
  bool statistics = false;      // count exits until init, for METRICS
  bool spare = false;           // fork the VM at once, and wait for the rest of the command line
  JailMode jail = JailMode::kSelf;
  std::string network;  // a file to which an empty network namespace is bound, for kSpawned
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
