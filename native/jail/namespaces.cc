#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "native/jail/jail.h"

namespace clearvm::jail {

Result<void> UnshareNamespaces() {
  if (::unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) != 0) {
    return SystemError("ERR_JAIL", "unshare",
                       "cannot enter new namespaces (run as root, or with --jail none)");
  }
  const pid_t child = ::fork();
  if (child < 0) return SystemError("ERR_JAIL", "fork", "cannot enter the new pid namespace");
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    return {};
  }
  // The child is PID 1 of its namespace, so it cannot be left to whoever started us to wait for.
  for (int signal : {SIGINT, SIGTERM, SIGHUP}) ::signal(signal, SIG_IGN);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

Result<void> EnterNetwork(const std::string& path) {
  const UniqueFd shared(path.empty() ? -1 : ::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (shared.valid() && ::setns(shared.get(), CLONE_NEWNET) == 0) return {};
  if (::unshare(CLONE_NEWNET) == 0) return {};
  return SystemError("ERR_JAIL", "unshare", "cannot enter a network namespace");
}

}  // namespace clearvm::jail
