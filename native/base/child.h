// Starting a process without copying the caller's page tables: clone(2) with CLONE_VM and
// CLONE_VFORK.
#ifndef CLEARVM_BASE_CHILD_H_
#define CLEARVM_BASE_CHILD_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "native/base/fd.h"
#include "native/base/result.h"

namespace clearvm {

struct ChildOptions {
  std::string file;
  std::vector<std::string> arguments;  // argv, without argv[0]
  std::vector<int> fds;                // the child's fd i is a copy of fds[i]; -1: /dev/null
  bool namespaces = false;  // new mount, pid, ipc and uts namespaces; needs CAP_SYS_ADMIN
};

struct Child {
  pid_t pid;
  UniqueFd pidfd;  // readable when it has ended; waitid(P_PIDFD, ..., __WALL) reaps it
};

// The child has the caller's environment, no other descriptors, no blocked signals. It sends no
// SIGCHLD, so that whoever waits for any child does not meet it. Errors: ERR_SPAWN (clone failed),
// ERR_SPAWN_EXEC (the file cannot be executed).
Result<Child> StartChild(const ChildOptions& options);

}  // namespace clearvm

#endif  // CLEARVM_BASE_CHILD_H_
