// clearvm-vmm: the process that owns exactly one VM.
#include <malloc.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <string_view>
#include <utility>

#include "native/jail/jail.h"
#include "native/kvm/probe.h"
#include "native/vmm/run.h"

namespace {

constexpr char kVersion[] = "0.1.0";

// Not by stdio: its first use asks for the file's status, which a confined thread may not do.
void Print(std::string_view text) {
  [[maybe_unused]] ssize_t wrote = ::write(STDOUT_FILENO, text.data(), text.size());
}

int Complain(const clearvm::Error& error) {
  std::fprintf(stderr, "clearvm-vmm: %s\n", error.message.c_str());
  return 125;
}

void PrintTimeline(const clearvm::vmm::Timeline& timeline) {
  static constexpr std::pair<clearvm_timeline, const char*> kPoints[] = {
      {CLEARVM_TIME_VMM_START, "vmm.start"},
      {CLEARVM_TIME_VMM_JAILED, "vmm.jailed"},
      {CLEARVM_TIME_KERNEL_LOADED, "kernel.loaded"},
      {CLEARVM_TIME_VM_CREATED, "vm.created"},
      {CLEARVM_TIME_RESTORED, "restored"},
      {CLEARVM_TIME_GUEST_ENTRY, "guest.entry"},
      {CLEARVM_TIME_INIT, "init"},
      {CLEARVM_TIME_AGENT_READY, "agent.ready"},
  };
  const uint64_t start = timeline.At(CLEARVM_TIME_VMM_START);
  for (const auto& [point, name] : kPoints) {
    const uint64_t at = timeline.At(point);
    if (at == 0) continue;
    char line[64];
    std::snprintf(line, sizeof line, "%-14s %9.3f ms\n", name,
                  static_cast<double>(at - start) / 1e6);
    Print(line);
  }
}

int Main(int argc, char** argv) {
  clearvm::vmm::Timeline timeline;
  timeline.Stamp(CLEARVM_TIME_VMM_START);
  // One heap for all threads: the arenas that threads would otherwise get cost more system calls
  // than they save.
  ::mallopt(M_ARENA_MAX, 1);
  ::signal(SIGPIPE, SIG_IGN);
  auto options = clearvm::vmm::ParseOptions(argc, argv);
  if (!options.ok()) return Complain(options.error());
  if (options.value().help) {
    Print(clearvm::vmm::kUsage);
    return 0;
  }
  if (options.value().version) {
    Print(std::string("clearvm-vmm ") + kVersion + "\n");
    return 0;
  }
  if (options.value().probe) {
    const auto report = clearvm::kvm::Probe("/dev/kvm");
    Print(clearvm::kvm::FormatProbe(report));
    return report.verdict == clearvm::kvm::Verdict::kHardware ? 0 : 1;
  }
  // Whoever looks for containers' VMMs does not mean this one.
  if (!options.value().template_save.empty()) ::prctl(PR_SET_NAME, "clearvm-builder");
  if (options.value().jail == clearvm::vmm::JailMode::kSelf) {
    if (auto unshared = clearvm::jail::UnshareNamespaces(); !unshared.ok()) {
      return Complain(unshared.error());
    }
  }
  const int status = clearvm::vmm::RunVmm(options.value(), &timeline);
  if (options.value().boot_only) PrintTimeline(timeline);
  return status;
}

}  // namespace

// _exit: the VM's threads are still running, and must not meet destructors.
int main(int argc, char** argv) { ::_exit(Main(argc, argv)); }
