#include "native/jail/seccomp.h"

#include <linux/audit.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>

namespace clearvm::jail {
namespace {

// The program's own memory is little-endian, so a 64-bit argument's low half comes first.
constexpr uint32_t ArgumentOffset(int index) {
  return offsetof(seccomp_data, args) + 8 * static_cast<uint32_t>(index);
}

void ReportTrap(int, siginfo_t* info, void*) {
  char line[96];
  const int length = std::snprintf(
      line, sizeof line, "clearvm-vmm: seccomp: forbidden system call %d\n", info->si_syscall);
  [[maybe_unused]] ssize_t wrote = ::write(2, line, static_cast<size_t>(length));
  ::_exit(128 + SIGSYS);
}

}  // namespace

std::vector<sock_filter> Compile(std::span<const Rule> rules) {
  std::vector<sock_filter> program = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
  };
  for (const Rule& rule : rules) {
    if (rule.index < 0) {
      program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, rule.number, 0, 1));
      program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
      continue;
    }
    // On a match of the number: load the argument, compare it with each value, refuse.
    const auto count = rule.arguments.size();
    program.push_back(
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, rule.number, 0, static_cast<uint8_t>(2 * count + 2)));
    program.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ArgumentOffset(rule.index)));
    for (uint32_t argument : rule.arguments) {
      program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, argument, 0, 1));
      program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    }
    program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP));
  }
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP));
  return program;
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

Result<void> ConfineThread(ThreadKind kind) {
  const std::vector<Rule> rules = RulesFor(kind);
  std::vector<sock_filter> program = Compile(rules);
  const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) != 0) {
    return SystemError("ERR_JAIL", "seccomp", "cannot confine a thread to its system calls");
  }
  return {};
}

}  // namespace clearvm::jail
