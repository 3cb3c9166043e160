#include "native/base/child.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

namespace clearvm {
namespace {

constexpr size_t kStackSize = 64 * 1024;  // bytes; the child calls a handful of system calls on it

// Shared with the child, which borrows this process's memory until it executes the file.
struct Launch {
  const char* file;
  char* const* argv;
  char* const* envp;
  const std::vector<int>* fds;
  int scratch;  // a number above every one of `fds` and of the child's own
  int error;    // errno of what failed in the child; 0: nothing
};

// Only async-signal-safe calls, and nothing that other threads of the caller could be holding.
int RunChild(void* argument) {
  auto* launch = static_cast<Launch*>(argument);
  const auto& fds = *launch->fds;
  const int count = static_cast<int>(fds.size());
  const auto fail = [launch] {
    launch->error = errno;
    ::_exit(127);
  };
  // Out of the way first: a source may have the number of another's target.
  for (int i = 0; i < count; i++) {
    if (::dup3(fds[static_cast<size_t>(i)], launch->scratch + i, O_CLOEXEC) < 0) fail();
  }
  for (int i = 0; i < count; i++) {
    if (::dup2(launch->scratch + i, i) < 0) fail();
  }
  ::close_range(static_cast<unsigned>(count), ~0u, 0);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::execve(launch->file, launch->argv, launch->envp);
  fail();
  return 0;
}

}  // namespace

Result<Child> StartChild(const ChildOptions& options) {
  UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null.valid()) return SystemError("ERR_SPAWN", "open", "cannot open /dev/null");
  std::vector<int> fds = options.fds;
  int highest = static_cast<int>(fds.size());
  for (int& fd : fds) {
    if (fd < 0) fd = null.get();
    highest = std::max(highest, fd);
  }
  std::vector<char*> argv{const_cast<char*>(options.file.c_str())};
  for (const std::string& argument : options.arguments) {
    argv.push_back(const_cast<char*>(argument.c_str()));
  }
  argv.push_back(nullptr);
  Launch launch{options.file.c_str(), argv.data(), environ, &fds, highest + 1, 0};

  int flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD;
  if (options.namespaces) {
    flags |= CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS;
  }
  // A handler that ran in the child would run on this process's memory.
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  const auto stack = std::make_unique<char[]>(kStackSize);
  int pidfd = -1;
  const int pid = ::clone(RunChild, stack.get() + kStackSize, flags, &launch, &pidfd);
  const int clone_error = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) {
    errno = clone_error;
    return SystemError(
        "ERR_SPAWN", "clone",
        options.namespaces && clone_error == EPERM
            ? "cannot put " + options.file + " into namespaces of its own (run as root)"
            : "cannot start " + options.file);
  }
  Child child{pid, UniqueFd(pidfd)};
  if (launch.error == 0) return child;
  siginfo_t info;
  ::waitid(P_PIDFD, static_cast<id_t>(pidfd), &info, WEXITED | __WALL);
  errno = launch.error;
  return SystemError("ERR_SPAWN_EXEC", "execve", "cannot execute " + options.file);
}

}  // namespace clearvm
