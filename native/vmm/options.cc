#include "native/vmm/options.h"

#include <fcntl.h>
#include <getopt.h>

#include <charconv>
#include <string_view>

namespace clearvm::vmm {

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

// Bytes, in whole pages.
Result<uint64_t> ParseSize(std::string_view name, std::string_view text, uint64_t low) {
  int shift = 0;
  std::string_view digits = text;
  if (!digits.empty()) {
    const char unit = digits.back();
    shift = unit == 'k' ? 10 : unit == 'm' ? 20 : unit == 'g' ? 30 : 0;
    if (shift > 0) digits.remove_suffix(1);
  }
  auto number = ParseNumber(name, digits, 0, kMaxMemory >> shift);
  if (!number.ok() || number.value() << shift < low) {
    return BadOption(name, "'" + std::string(text) + "' is not a size from " +
                               std::to_string(low >> 20) + "m to 1024g");
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
  ExportOption entry{"", true, false, options.jail_plan.shares.size(), false, p9::Ownership::kHost};
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
  ExportOption entry{
      "", true, true, options.jail_plan.overlays.size(), false, p9::Ownership::kHost};
  entry.window = true;
  jail::Overlay overlay;
  std::string lower;
  CLEARVM_RETURN_IF_ERROR(ForEachField(
      text, "state", [&](std::string_view key, std::string_view value) -> Result<void> {
        if (key == "tag") {
          entry.tag = value;
        } else if (key == "ro" && value.empty()) {
          entry.read_only = overlay.read_only = true;
        } else if (key == "userxattr" && value.empty()) {
          overlay.user_xattrs = true;
        } else if (key == "private" && value.empty()) {
          entry.window = false;
        } else if (key == "layers") {
          overlay.layers = value;
        } else if (key == "lower") {
          lower = value;
        } else if (key == "base") {
          overlay.base = value;
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

Result<void> TakeAbsolutePath(std::string& target, std::string_view name, std::string_view text) {
  if (text.empty() || text.front() != '/') return BadOption(name, "must be an absolute path");
  target = text;
  return {};
}

enum Option : int {
  kHelp = 1,
  kVersion,
  kProbe,
  kControlFd,
  kListenFd,
  kTerminal,
  kKernel,
  kKernelFd,
  kInitrd,
  kInitrdFd,
  kSpec,
  kSpecFd,
  kCpus,
  kMemory,
  kBacking,
  kBalloon,
  kCpuset,
  kCpuLimit,
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
  kSpare,
  kUnserved,
  kNetns,
  kTemplate,
  kTemplateCache,
  kTemplateSave,
  kRestore,
  kRestoreChecked,
  kJail
};

const option kOptions[] = {
    {"help", no_argument, nullptr, kHelp},
    {"version", no_argument, nullptr, kVersion},
    {"probe", no_argument, nullptr, kProbe},
    {"control-fd", required_argument, nullptr, kControlFd},
    {"listen-fd", required_argument, nullptr, kListenFd},
    {"terminal", no_argument, nullptr, kTerminal},
    {"kernel", required_argument, nullptr, kKernel},
    {"kernel-fd", required_argument, nullptr, kKernelFd},
    {"initrd", required_argument, nullptr, kInitrd},
    {"initrd-fd", required_argument, nullptr, kInitrdFd},
    {"spec", required_argument, nullptr, kSpec},
    {"spec-fd", required_argument, nullptr, kSpecFd},
    {"cpus", required_argument, nullptr, kCpus},
    {"memory", required_argument, nullptr, kMemory},
    {"memory-backing", required_argument, nullptr, kBacking},
    {"balloon", required_argument, nullptr, kBalloon},
    {"cpuset-cpus", required_argument, nullptr, kCpuset},
    {"cpu-limit", required_argument, nullptr, kCpuLimit},
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
    {"netns", required_argument, nullptr, kNetns},
    {"unserved", required_argument, nullptr, kUnserved},
    {"template", required_argument, nullptr, kTemplate},
    {"template-cache", required_argument, nullptr, kTemplateCache},
    {"template-save", required_argument, nullptr, kTemplateSave},
    {"restore", required_argument, nullptr, kRestore},
    {"restore-checked", required_argument, nullptr, kRestoreChecked},
    {"statistics", no_argument, nullptr, kStatistics},
    {"spare", no_argument, nullptr, kSpare},
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
    case kSpare:
      options.spare = true;
      return {};
    case kControlFd:
      return TakeFd(options.control_fd, name, text);
    case kListenFd:
      return TakeFd(options.listen_fd, name, text);
    case kTerminal:
      options.terminal = true;
      return {};
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
    case kCpuLimit: {
      CLEARVM_ASSIGN(uint64_t limit, ParseNumber(name, text, 1, 1000 * kMaxCpus));
      options.cpu_limit = static_cast<uint32_t>(limit);
      return {};
    }
    case kMemory: {
      CLEARVM_ASSIGN(options.memory, ParseSize(name, text, kMinMemory));
      return {};
    }
    case kBacking:
      if (text == "auto")
        options.backing = BackingOption::kAuto;
      else if (text == "memfd")
        options.backing = BackingOption::kMemfd;
      else if (text == "anonymous")
        options.backing = BackingOption::kAnonymous;
      else if (text == "hugepages")
        options.backing = BackingOption::kHugePages;
      else
        return BadOption(name, "must be auto, memfd, anonymous or hugepages");
      return {};
    case kBalloon: {
      CLEARVM_ASSIGN(options.balloon, ParseSize(name, text, 0));
      return {};
    }
    case kCpuset:
      options.cpuset = text;
      return {};
    case kCmdline:
      options.command_line = text;
      return {};
    case kVsock:
      return TakeAbsolutePath(options.vsock_path, name, text);
    case kNetns:
      return TakeAbsolutePath(options.network, name, text);
    case kUnserved:
      return AddExport(options, name,
                       {std::string(text), false, false, 0, true, p9::Ownership::kHost});
    case kTemplate:
      return TakeAbsolutePath(options.template_path, name, text);
    case kTemplateCache:
      return TakeAbsolutePath(options.template_cache, name, text);
    case kRestore:
      return TakeAbsolutePath(options.restore, name, text);
    case kRestoreChecked:
      return TakeAbsolutePath(options.restore_checked, name, text);
    case kTemplateSave:
      return TakeAbsolutePath(options.template_save, name, text);
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
  if (options.balloon > options.memory - kMinMemory) {
    return BadOption("balloon", "leaves the guest less than 32m");
  }
  if (!options.template_save.empty() &&
      (!options.template_path.empty() || options.control_fd >= 0 || options.listen_fd >= 0 ||
       options.spec.given() || !options.jail_plan.overlays.empty() ||
       !options.jail_plan.shares.empty() || !options.vsock_path.empty() ||
       !options.restore.empty())) {
    return BadOption("template-save", "a template has no spec, no files and no host to talk to");
  }
  if (options.spare && (options.control_fd < 0 || options.template_path.empty() ||
                        options.listen_fd >= 0 || !options.jail_plan.overlays.empty() ||
                        !options.jail_plan.shares.empty() || !options.vsock_path.empty())) {
    return BadOption("spare", "needs --control-fd and --template, and hears of the rest later");
  }
  if (!options.restore.empty() && (!options.template_path.empty() || options.listen_fd < 0)) {
    return BadOption("restore", "needs --listen-fd, and no template");
  }
  return options;
}

}  // namespace clearvm::vmm
