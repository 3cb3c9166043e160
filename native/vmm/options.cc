#include "native/vmm/options.h"

#include <fcntl.h>
#include <getopt.h>

#include <charconv>
#include <string_view>

namespace clearvm::vmm {

const char kUsage[] =
    "usage: clearvm-vmm --kernel PATH [option ...]\n"
    "Runs one virtual machine. The engine starts it; by hand it is for debugging.\n"
    "\n"
    "  --kernel PATH | --kernel-fd N    the guest kernel: an uncompressed ELF vmlinux\n"
    "  --initrd PATH | --initrd-fd N    the initramfs that holds /init\n"
    "  --spec PATH | --spec-fd N        what init is to run (without a control socket)\n"
    "  --control-fd N                   the control socket, a connected Unix stream socket\n"
    "  --cpus N                         1 to 32 (default 1)\n"
    "  --memory SIZE                    bytes, or with k, m, g behind (default 128m)\n"
    "  --memory-backing auto|memfd|anonymous\n"
    "  --cmdline TEXT                   appended to the kernel's command line\n"
    "  --share tag=TAG[,ro][,ownership=host|xattrs],path=PATH   export a directory by 9p\n"
    "  --overlay tag=TAG[,ro],layers=DIR,lower=A:B,state=DIR    export an overlay by 9p\n"
    "  --stdin-fd N, --stdout-fd N, --stderr-fd N   the container's standard streams\n"
    "  --console-fd N                   a copy of the kernel log goes there\n"
    "  --vsock PATH                     a Unix socket through which the host reaches guest ports\n"
    "  --jail none|self|spawned         how it is confined (default self)\n"
    "  --debug                          a talkative guest kernel\n"
    "  --boot-only                      end when init is ready, and print the timeline\n"
    "  --statistics                     count VM exits until init's start, for the metrics\n"
    "  --probe                          say what /dev/kvm can do, and exit\n"
    "  --help, --version\n";

namespace {

Error BadOption(std::string_view name, std::string_view problem) {
  return Error{"ERR_VMM_OPTION", 0, "", "--" + std::string(name) + ": " + std::string(problem)};
}

Result<uint64_t> ParseNumber(std::string_view name, std::string_view text, uint64_t low,
                             uint64_t high) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < low || value > high) {
    return BadOption(name, "'" + std::string(text) + "' is not a number from " +
                               std::to_string(low) + " to " + std::to_string(high));
  }
  return value;
}

Result<uint64_t> ParseMemory(std::string_view text) {
  int shift = 0;
  std::string_view digits = text;
  if (!digits.empty()) {
    const char unit = digits.back();
    shift = unit == 'k' ? 10 : unit == 'm' ? 20 : unit == 'g' ? 30 : 0;
    if (shift > 0) digits.remove_suffix(1);
  }
  auto number = ParseNumber("memory", digits, 0, kMaxMemory >> shift);
  if (!number.ok() || number.value() << shift < kMinMemory) {
    return BadOption("memory", "'" + std::string(text) + "' is not a size from 32m to 1024g");
  }
  return (number.value() << shift) & ~0xfffull;
}

Result<int> ParseFd(std::string_view name, std::string_view text) {
  CLEARVM_ASSIGN(uint64_t number, ParseNumber(name, text, 0, 1 << 20));
  const int fd = static_cast<int>(number);
  if (::fcntl(fd, F_GETFD) < 0) {
    return BadOption(name, "file descriptor " + std::string(text) + " is not open");
  }
  return fd;
}

// "key=value,flag,last=everything,else": calls `take` with each key and value ("" for a flag).
// `last` ends the list.
template <typename Take>
Result<void> ForEachField(std::string_view text, std::string_view last, Take take) {
  while (!text.empty()) {
    const bool is_last =
        text.size() > last.size() && text.starts_with(last) && text[last.size()] == '=';
    const size_t comma = is_last ? std::string_view::npos : text.find(',');
    const std::string_view field = text.substr(0, comma);
    const size_t equals = field.find('=');
    CLEARVM_RETURN_IF_ERROR(take(field.substr(0, equals), equals == std::string_view::npos
                                                              ? std::string_view()
                                                              : field.substr(equals + 1)));
    text = comma == std::string_view::npos ? std::string_view() : text.substr(comma + 1);
  }
  return {};
}

bool ValidTag(std::string_view tag) {
  if (tag.empty() || tag.size() > 31) return false;
  for (char c : tag) {
    const bool valid = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '_' || c == '.' || c == '-';
    if (!valid) return false;
  }
  return true;
}

Result<void> AddExport(Options& options, std::string_view name, ExportOption entry) {
  if (!ValidTag(entry.tag)) return BadOption(name, "tag= must be 1 to 31 of [A-Za-z0-9_.-]");
  if (options.exports.size() >= kMaxExports) return BadOption(name, "more than 32 exports");
  for (const ExportOption& other : options.exports) {
    if (other.tag == entry.tag) return BadOption(name, "tag " + entry.tag + " is used twice");
  }
  options.exports.push_back(std::move(entry));
  return {};
}

Result<void> ParseShare(Options& options, std::string_view text) {
  ExportOption entry{"", false, options.jail_plan.shares.size(), false, p9::Ownership::kHost};
  std::string path;
  CLEARVM_RETURN_IF_ERROR(
      ForEachField(text, "path", [&](std::string_view key, std::string_view value) -> Result<void> {
        if (key == "tag") {
          entry.tag = value;
        } else if (key == "ro" && value.empty()) {
          entry.read_only = true;
        } else if (key == "ownership" && (value == "host" || value == "xattrs")) {
          entry.ownership = value == "host" ? p9::Ownership::kHost : p9::Ownership::kXattrs;
        } else if (key == "path") {
          path = value;
        } else {
          return BadOption("share", "'" + std::string(key) + "' is not a field of it");
        }
        return {};
      }));
  if (path.empty()) return BadOption("share", "path= is missing");
  options.jail_plan.shares.push_back({path, entry.read_only});
  return AddExport(options, "share", std::move(entry));
}

Result<void> ParseOverlay(Options& options, std::string_view text) {
  ExportOption entry{"", true, options.jail_plan.overlays.size(), false, p9::Ownership::kHost};
  jail::Overlay overlay;
  std::string lower;
  CLEARVM_RETURN_IF_ERROR(ForEachField(
      text, "state", [&](std::string_view key, std::string_view value) -> Result<void> {
        if (key == "tag") {
          entry.tag = value;
        } else if (key == "ro" && value.empty()) {
          entry.read_only = overlay.read_only = true;
        } else if (key == "layers") {
          overlay.layers = value;
        } else if (key == "lower") {
          lower = value;
        } else if (key == "state") {
          overlay.state = value;
        } else {
          return BadOption("overlay", "'" + std::string(key) + "' is not a field of it");
        }
        return {};
      }));
  if (overlay.layers.empty() || overlay.state.empty() || lower.empty()) {
    return BadOption("overlay", "layers=, lower= and state= are needed");
  }
  for (std::string_view rest = lower; !rest.empty();) {
    const size_t colon = rest.find(':');
    const std::string_view name = rest.substr(0, colon);
    if (name.empty() || name == "." || name == ".." ||
        name.find_first_of("/,\\") != std::string_view::npos) {
      return BadOption("overlay", "'" + std::string(name) + "' is not the name of a layer");
    }
    overlay.lower.emplace_back(name);
    rest = colon == std::string_view::npos ? std::string_view() : rest.substr(colon + 1);
  }
  options.jail_plan.overlays.push_back(std::move(overlay));
  return AddExport(options, "overlay", std::move(entry));
}

enum Option : int {
  kHelp = 1,
  kVersion,
  kProbe,
  kControlFd,
  kKernel,
  kKernelFd,
  kInitrd,
  kInitrdFd,
  kSpec,
  kSpecFd,
  kCpus,
  kMemory,
  kBacking,
  kCmdline,
  kShare,
  kOverlay,
  kStdinFd,
  kStdoutFd,
  kStderrFd,
  kConsoleFd,
  kVsock,
  kDebug,
  kBootOnly,
  kStatistics,
  kJail
};

const option kOptions[] = {
    {"help", no_argument, nullptr, kHelp},
    {"version", no_argument, nullptr, kVersion},
    {"probe", no_argument, nullptr, kProbe},
    {"control-fd", required_argument, nullptr, kControlFd},
    {"kernel", required_argument, nullptr, kKernel},
    {"kernel-fd", required_argument, nullptr, kKernelFd},
    {"initrd", required_argument, nullptr, kInitrd},
    {"initrd-fd", required_argument, nullptr, kInitrdFd},
    {"spec", required_argument, nullptr, kSpec},
    {"spec-fd", required_argument, nullptr, kSpecFd},
    {"cpus", required_argument, nullptr, kCpus},
    {"memory", required_argument, nullptr, kMemory},
    {"memory-backing", required_argument, nullptr, kBacking},
    {"cmdline", required_argument, nullptr, kCmdline},
    {"share", required_argument, nullptr, kShare},
    {"overlay", required_argument, nullptr, kOverlay},
    {"stdin-fd", required_argument, nullptr, kStdinFd},
    {"stdout-fd", required_argument, nullptr, kStdoutFd},
    {"stderr-fd", required_argument, nullptr, kStderrFd},
    {"console-fd", required_argument, nullptr, kConsoleFd},
    {"vsock", required_argument, nullptr, kVsock},
    {"debug", no_argument, nullptr, kDebug},
    {"boot-only", no_argument, nullptr, kBootOnly},
    {"statistics", no_argument, nullptr, kStatistics},
    {"jail", required_argument, nullptr, kJail},
    {nullptr, 0, nullptr, 0},
};

Result<void> TakeFd(int& target, std::string_view name, std::string_view text) {
  CLEARVM_ASSIGN(target, ParseFd(name, text));
  return {};
}

Result<void> TakeFile(FileOption& target, std::string_view name, std::string_view text, bool fd) {
  if (target.given()) return BadOption(name, "given twice");
  if (fd) return TakeFd(target.fd, name, text);
  if (text.empty()) return BadOption(name, "an empty path");
  target.path = text;
  return {};
}

Result<void> Take(Options& options, int which, std::string_view name, std::string_view text) {
  switch (which) {
    case kHelp:
      options.help = true;
      return {};
    case kVersion:
      options.version = true;
      return {};
    case kProbe:
      options.probe = true;
      return {};
    case kDebug:
      options.debug = true;
      return {};
    case kBootOnly:
      options.boot_only = true;
      return {};
    case kStatistics:
      options.statistics = true;
      return {};
    case kControlFd:
      return TakeFd(options.control_fd, name, text);
    case kStdinFd:
      return TakeFd(options.stdin_fd, name, text);
    case kStdoutFd:
      return TakeFd(options.stdout_fd, name, text);
    case kStderrFd:
      return TakeFd(options.stderr_fd, name, text);
    case kConsoleFd:
      return TakeFd(options.console_fd, name, text);
    case kKernel:
    case kKernelFd:
      return TakeFile(options.kernel, name, text, which == kKernelFd);
    case kInitrd:
    case kInitrdFd:
      return TakeFile(options.initrd, name, text, which == kInitrdFd);
    case kSpec:
    case kSpecFd:
      return TakeFile(options.spec, name, text, which == kSpecFd);
    case kShare:
      return ParseShare(options, text);
    case kOverlay:
      return ParseOverlay(options, text);
    case kCpus: {
      CLEARVM_ASSIGN(uint64_t cpus, ParseNumber(name, text, 1, kMaxCpus));
      options.cpus = static_cast<uint32_t>(cpus);
      return {};
    }
    case kMemory: {
      CLEARVM_ASSIGN(options.memory, ParseMemory(text));
      return {};
    }
    case kBacking:
      if (text == "auto")
        options.backing = BackingOption::kAuto;
      else if (text == "memfd")
        options.backing = BackingOption::kMemfd;
      else if (text == "anonymous")
        options.backing = BackingOption::kAnonymous;
      else
        return BadOption(name, "must be auto, memfd or anonymous");
      return {};
    case kCmdline:
      options.command_line = text;
      return {};
    case kVsock:
      if (text.empty() || text.front() != '/') return BadOption(name, "must be an absolute path");
      options.vsock_path = text;
      return {};
    case kJail:
      if (text == "none")
        options.jail = JailMode::kNone;
      else if (text == "self")
        options.jail = JailMode::kSelf;
      else if (text == "spawned")
        options.jail = JailMode::kSpawned;
      else
        return BadOption(name, "must be none, self or spawned");
      return {};
    default:
      return BadOption(name, "unknown");
  }
}

}  // namespace

Result<Options> ParseOptions(int argc, char** argv) {
  Options options;
  opterr = 0;
  optind = 1;
  for (int index = -1;;) {
    const int which = ::getopt_long(argc, argv, "", kOptions, &index);
    if (which == -1) break;
    if (which == '?') {
      return Error{
          "ERR_VMM_OPTION", 0, "",
          std::string(argv[optind - 1]) + ": unknown, or its value is missing; see --help"};
    }
    CLEARVM_RETURN_IF_ERROR(
        Take(options, which, kOptions[index].name, optarg == nullptr ? "" : optarg));
  }
  if (optind < argc) {
    return Error{"ERR_VMM_OPTION", 0, "",
                 std::string(argv[optind]) + ": not an option; see --help"};
  }
  if (options.help || options.version || options.probe) return options;
  if (!options.kernel.given()) return BadOption("kernel", "is needed");
  if (options.control_fd >= 0 && options.spec.given()) {
    return BadOption("spec", "comes by the control socket where there is one");
  }
  return options;
}

}  // namespace clearvm::vmm
