#include "native/vmm/options.h"

#include <getopt.h>

#include "native/vmm/option_values.h"

namespace clearvm::vmm {

namespace {

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
