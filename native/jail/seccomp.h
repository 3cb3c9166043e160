// The system calls that each kind of thread may make: seccomp(2),
// Documentation/userspace-api/seccomp_filter.rst.
#ifndef CLEARVM_JAIL_SECCOMP_H_
#define CLEARVM_JAIL_SECCOMP_H_

#include <linux/filter.h>

#include <cstdint>
#include <span>
#include <vector>

#include "native/base/result.h"

namespace clearvm::jail {

enum class ThreadKind {
  kMain,  // control socket, agent
  kVcpu,  // KVM_RUN, register blocks
  kIo,    // console, rng, vsock
  kFs,    // one 9p export
};

// One allowed system call. With `arguments`, the argument at `index` must be one of them (its low
// 32 bits).
struct Rule {
  uint32_t number;
  int index = -1;
  std::vector<uint32_t> arguments = {};
};

// The allow-list of a kind of thread.
std::vector<Rule> RulesFor(ThreadKind kind);

// The BPF program that lets through what `rules` allow, on x86-64 only, and traps (SIGSYS)
// everything else.
std::vector<sock_filter> Compile(std::span<const Rule> rules);

// Makes a forbidden call end the process with a line on stderr that names the call. Once per
// process.
Result<void> InstallTrapReport();

// Confines the calling thread, for good. no_new_privs must be set. Errors: ERR_JAIL.
Result<void> ConfineThread(ThreadKind kind);

}  // namespace clearvm::jail

#endif  // CLEARVM_JAIL_SECCOMP_H_
