// Confines threads to their system calls: seccomp(2),
// Documentation/userspace-api/seccomp_filter.rst.
#ifndef CLEARVM_JAIL_SECCOMP_H_
#define CLEARVM_JAIL_SECCOMP_H_

#include <linux/filter.h>

#include <cstdint>
#include <span>

#include "native/base/fixed_list.h"
#include "native/base/result.h"

namespace clearvm::jail {

enum class ThreadKind {
  kMain,  // control socket, agent
  kVcpu,  // KVM_RUN, register blocks
  // kVcpu, and starts others such, which inherit the filter: installing one costs 0.26 million
  // instructions. All of them go on to EndStarting.
  kVcpuStarter,
  kIo,  // console, rng, vsock, balloon
  kFs,  // one 9p export
};

// One allowed system call. With `arguments`, the argument at `index` must be one of them (its low
// 32 bits).
struct Rule {
  uint32_t number;
  int index = -1;
  FixedList<uint32_t, 32> arguments = {};
};

using Rules = FixedList<Rule, 128>;  // no number twice

// The BPF program for a kind of thread (native/jail/filter.h).
std::span<const sock_filter> FilterFor(ThreadKind kind);

// Makes a forbidden call end the process with a line on stderr that names the call. Once per
// process.
Result<void> InstallTrapReport();

// Confines the calling thread, for good. no_new_privs must be set. Errors: ERR_JAIL.
Result<void> ConfineThread(ThreadKind kind);

// Whether and how far a thread shuts itself in.
enum class Confinement {
  kNone,
  kFilter,  // its privileges were dropped before it was started
  kAll,     // those that its kind has no use for, too: it was started early
};
// Errors: ERR_JAIL.
Result<void> ConfineThread(ThreadKind kind, Confinement how);

// Makes of kVcpuStarter, installed or inherited, kVcpu: starts no threads. Errors: ERR_JAIL.
Result<void> EndStarting();

// The program that does, for tests.
std::span<const sock_filter> EndStartingFilter();

}  // namespace clearvm::jail

#endif  // CLEARVM_JAIL_SECCOMP_H_
