#include "native/jail/seccomp.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstdio>

#include "native/jail/filter.h"
#include "native/jail/jail.h"
#include "native/jail/rules.h"

namespace clearvm::jail {
namespace {

template <ThreadKind kKind>
constexpr auto MakeFilter() {
  constexpr Filter program = Compile(RulesFor(kKind));
  std::array<sock_filter, program.size()> filter{};
  std::copy(program.begin(), program.end(), filter.begin());
  return filter;
}

constexpr auto kMainFilter = MakeFilter<ThreadKind::kMain>();
constexpr auto kVcpuFilter = MakeFilter<ThreadKind::kVcpu>();
constexpr auto kVcpuStarterFilter = MakeFilter<ThreadKind::kVcpuStarter>();
constexpr auto kIoFilter = MakeFilter<ThreadKind::kIo>();
constexpr auto kFsFilter = MakeFilter<ThreadKind::kFs>();

// The other filter of the thread looks at the architecture, and what either forbids is forbidden.
constexpr auto MakeEndStartingFilter() {
  constexpr size_t kCalls = std::size(kStarting);
  std::array<sock_filter, kCalls + 3> filter{};
  filter[0] = BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr));
  for (size_t i = 0; i < kCalls; i++) {
    filter[1 + i] =
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kStarting[i], static_cast<uint8_t>(kCalls - i), 0);
  }
  filter[1 + kCalls] = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  filter[2 + kCalls] = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
  return filter;
}
constexpr auto kEndStartingFilter = MakeEndStartingFilter();

Result<void> Install(std::span<const sock_filter> program) {
  const sock_fprog filter{static_cast<unsigned short>(program.size()),
                          const_cast<sock_filter*>(program.data())};  // it is only read
  if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) != 0) {
    return SystemError("ERR_JAIL", "seccomp", "cannot confine a thread to its system calls");
  }
  return {};
}

void ReportTrap(int, siginfo_t* info, void*) {
  char line[96];
  const int length = std::snprintf(
      line, sizeof line, "clearvm-vmm: seccomp: forbidden system call %d\n", info->si_syscall);
  [[maybe_unused]] ssize_t wrote = ::write(2, line, static_cast<size_t>(length));
  ::_exit(128 + SIGSYS);
}

}  // namespace

std::span<const sock_filter> FilterFor(ThreadKind kind) {
  switch (kind) {
    case ThreadKind::kMain:
      return kMainFilter;
    case ThreadKind::kVcpu:
      return kVcpuFilter;
    case ThreadKind::kVcpuStarter:
      return kVcpuStarterFilter;
    case ThreadKind::kIo:
      return kIoFilter;
    case ThreadKind::kFs:
      return kFsFilter;
  }
  return kVcpuFilter;
}

Result<void> InstallTrapReport() {
  struct sigaction action {};
  action.sa_sigaction = ReportTrap;
  action.sa_flags = SA_SIGINFO;
  if (::sigaction(SIGSYS, &action, nullptr) != 0) {
    return SystemError("ERR_JAIL", "sigaction", "cannot watch for forbidden system calls");
  }
  return {};
}

Result<void> ConfineThread(ThreadKind kind) { return Install(FilterFor(kind)); }

Result<void> ConfineThread(ThreadKind kind, Confinement how) {
  if (how == Confinement::kNone) return {};
  if (how == Confinement::kAll) {
    const bool files = kind == ThreadKind::kFs;
    CLEARVM_RETURN_IF_ERROR(DropPrivileges(files, files));
  }
  return ConfineThread(kind);
}

std::span<const sock_filter> EndStartingFilter() { return kEndStartingFilter; }
Result<void> EndStarting() { return Install(kEndStartingFilter); }

}  // namespace clearvm::jail
