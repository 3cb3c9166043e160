// clearvm-vmm: the process that owns exactly one VM.
#include <malloc.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>

#include "native/jail/jail.h"
#include "native/kvm/probe.h"
#include "native/vmm/run.h"

namespace {

constexpr char kVersion[] = "0.1.0";

int Complain(const clearvm::Error& error) {
  std::fprintf(stderr, "clearvm-vmm: %s\n", error.message.c_str());
  return 125;
}

void PrintTimeline(const clearvm::vmm::Timeline& timeline) {
  static constexpr const char* kNames[] = {"",           "vmm.start",     "vmm.jailed",
                                           "vm.created", "kernel.loaded", "guest.entry",
                                           "init",       "agent.ready"};
  const uint64_t start = timeline.At(CLEARVM_TIME_VMM_START);
  for (int point = CLEARVM_TIME_VMM_START; point <= CLEARVM_TIME_AGENT_READY; point++) {
    const uint64_t at = timeline.At(static_cast<clearvm_timeline>(point));
    if (at != 0) {
      std::printf("%-14s %9.3f ms\n", kNames[point], static_cast<double>(at - start) / 1e6);
    }
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
    std::fputs(clearvm::vmm::kUsage, stdout);
    return 0;
  }
  if (options.value().version) {
    std::printf("clearvm-vmm %s\n", kVersion);
    return 0;
  }
  if (options.value().probe) {
    const auto report = clearvm::kvm::Probe("/dev/kvm");
    std::fputs(clearvm::kvm::FormatProbe(report).c_str(), stdout);
    return report.verdict == clearvm::kvm::Verdict::kHardware ? 0 : 1;
  }
  if (options.value().jail == clearvm::vmm::JailMode::kSelf) {
    if (auto unshared = clearvm::jail::UnshareNamespaces(); !unshared.ok()) {
      return Complain(unshared.error());
    }
  }
  const int status = clearvm::vmm::RunVmm(options.value(), &timeline);
  if (options.value().boot_only) PrintTimeline(timeline);
  std::fflush(stdout);
  return status;
}

}  // namespace

// _exit: the VM's threads are still running, and must not meet destructors.
int main(int argc, char** argv) { ::_exit(Main(argc, argv)); }
