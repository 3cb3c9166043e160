#include "native/jail/user_namespace.h"

#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <climits>

#include "native/base/fd.h"
#include "native/jail/id_ranges.h"

namespace clearvm::jail {
namespace {

constexpr char kLockName[] = "userns";
// subuid(5) of a host with thousands of users; what lies behind is not read.
constexpr size_t kMaxFileSize = 4 << 20;

Error NamespaceError(const char* syscall, std::string message) {
  return SystemError("ERR_USER_NAMESPACE", syscall, std::move(message));
}

std::string ReadFile(const std::string& path) {
  std::string text;
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  char buffer[4096];
  for (ssize_t count; file.valid() && text.size() < kMaxFileSize;) {
    count = ::read(file.get(), buffer, sizeof buffer);
    if (count <= 0) break;
    text.append(buffer, static_cast<size_t>(count));
  }
  return text;
}

bool WriteText(const std::string& path, const std::string& text) {
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  return file.valid() &&
         ::write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

Result<UniqueFd> OpenOwnDirectory(const std::string& path) {
  UniqueFd directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat info;
  if (!directory.valid() || ::fstat(directory.get(), &info) != 0) {
    return NamespaceError("open", "cannot open the runtime directory " + path);
  }
  // It may lie in /tmp, where anybody could have made it.
  if (info.st_uid != ::geteuid() || (info.st_mode & 022) != 0) {
    return Error{"ERR_USER_NAMESPACE", 0, "",
                 "the runtime directory " + path +
                     " does not belong to this user alone: remove it, or set XDG_RUNTIME_DIR to a "
                     "directory that does"};
  }
  return directory;
}

// The process that holds the lock; 0: nobody. The kernel's answer: it cannot be of one that is
// gone.
pid_t LockHolder(int lock) {
  struct flock wanted {};
  wanted.l_type = F_WRLCK;
  if (::fcntl(lock, F_GETLK, &wanted) != 0 || wanted.l_type == F_UNLCK) return 0;
  return wanted.l_pid;
}

// Whether it has joined; false: there is nothing to join.
Result<bool> Join(int lock) {
  const pid_t holder = LockHolder(lock);
  if (holder <= 0) return false;
  const std::string place = "/proc/" + std::to_string(holder) + "/ns/";
  const UniqueFd user(::open((place + "user").c_str(), O_RDONLY | O_CLOEXEC));
  const UniqueFd mounts(::open((place + "mnt").c_str(), O_RDONLY | O_CLOEXEC));
  const int failed = errno;
  // As long as it holds the lock, its number is nobody else's.
  if (LockHolder(lock) != holder) return false;
  errno = failed;
  if (!user.valid() || !mounts.valid()) {
    return NamespaceError("open", "cannot open the namespaces of process " +
                                      std::to_string(holder) + " (clearvm-pause)");
  }
  uid_t owner = 0;
  if (::ioctl(user.get(), NS_GET_OWNER_UID, &owner) != 0 || owner != ::geteuid()) {
    return Error{
        "ERR_USER_NAMESPACE", 0, "",
        "process " + std::to_string(holder) + " holds the lock of clearvm-pause, and is none"};
  }
  char directory[PATH_MAX];
  const bool has_directory = ::getcwd(directory, sizeof directory) != nullptr;
  if (::setns(user.get(), CLONE_NEWUSER) != 0 || ::setns(mounts.get(), CLONE_NEWNS) != 0) {
    return NamespaceError("setns", "cannot join the namespaces of process " +
                                       std::to_string(holder) + " (clearvm-pause)");
  }
  // The new mount namespace has another root, and with it another working directory.
  if (has_directory && ::chdir(directory) != 0) {
    return NamespaceError("chdir", std::string("cannot come back to ") + directory);
  }
  return true;
}

// Runs newuidmap or newgidmap on process `pid`; what it has to say goes to standard error.
bool RunMapper(const char* program, pid_t pid, const std::vector<std::string>& mapping) {
  const std::string target = std::to_string(pid);
  std::vector<char*> argv{const_cast<char*>(program), const_cast<char*>(target.c_str())};
  for (const std::string& argument : mapping) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  pid_t mapper;
  int status = -1;
  if (::posix_spawnp(&mapper, program, nullptr, nullptr, argv.data(), environ) != 0) return false;
  while (::waitpid(mapper, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

constexpr int kNoUidMapper = 2;
constexpr int kNoGidMapper = 3;

// In a child that stays in the old namespace: waits for `go`, then maps its parent. The exit status
// is 0, or says what failed.
[[noreturn]] void MapParent(pid_t parent, int go, const std::vector<std::string>& uids,
                            const std::vector<std::string>& gids) {
  char byte;
  if (::read(go, &byte, 1) != 1) ::_exit(1);
  if (!RunMapper("newuidmap", parent, uids)) ::_exit(kNoUidMapper);
  if (!RunMapper("newgidmap", parent, gids)) ::_exit(kNoGidMapper);
  ::_exit(0);
}

Error UnshareError() {
  const int failed = errno;
  std::string advice;
  if (failed == EPERM) {
    advice = " (kernel.unprivileged_userns_clone=0, AppArmor's restriction of them, or a chroot?)";
  }
  if (failed == ENOSPC) advice = " (user.max_user_namespaces is too low)";
  if (failed == EINVAL) advice = " (a kernel without CONFIG_USER_NS?)";
  errno = failed;
  return NamespaceError("unshare", "this user may not make user namespaces" + advice +
                                       "; `clearvm doctor` says more");
}

// Maps the user's own ids to root's, and nothing else: what needs no privilege.
Result<void> MapAlone(uid_t uid, gid_t gid) {
  if (!WriteText("/proc/self/setgroups", "deny") ||
      !WriteText("/proc/self/uid_map", "0 " + std::to_string(uid) + " 1") ||
      !WriteText("/proc/self/gid_map", "0 " + std::to_string(gid) + " 1")) {
    return NamespaceError("write", "cannot map the user's own id into a user namespace");
  }
  return {};
}

// A process that holds the lock, and with it the namespaces that it is in, until somebody ends it.
// It returns when that is so.
Result<void> StartPause(int lock) {
  int ready[2];
  if (::pipe2(ready, O_CLOEXEC) != 0) return NamespaceError("pipe2", "cannot make a pipe");
  UniqueFd read_end(ready[0]), write_end(ready[1]);
  const pid_t child = ::fork();
  if (child < 0) return NamespaceError("fork", "cannot start clearvm-pause");
  if (child > 0) {
    write_end = UniqueFd();
    while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
    }
    char byte;
    // Without it, these namespaces end with this command.
    [[maybe_unused]] const ssize_t got = ::read(read_end.get(), &byte, 1);
    return {};
  }
  ::setsid();
  if (::fork() != 0) ::_exit(0);
  ::prctl(PR_SET_NAME, "clearvm-pause");
  [[maybe_unused]] const int moved = ::chdir("/");
  ::umask(077);
  for (int signal : {SIGPIPE, SIGHUP, SIGINT, SIGTERM}) {
    ::signal(signal, signal == SIGTERM ? SIG_DFL : SIG_IGN);
  }
  struct flock mine {};
  mine.l_type = F_WRLCK;
  if (::fcntl(lock, F_SETLK, &mine) != 0 || ::write(write_end.get(), "", 1) != 1) ::_exit(1);
  const int null = ::open("/dev/null", O_RDWR);
  for (int fd = 0; fd < 3; fd++) ::dup2(null, fd);
  // Closing any other descriptor of its file would end the lock; there is none.
  if (lock != 3) {
    ::close_range(3, static_cast<unsigned>(lock) - 1, 0);
  }
  ::close_range(static_cast<unsigned>(lock) + 1, ~0u, 0);
  for (;;) ::pause();
}

Result<void> Make(const UserNamespaceOptions& options, int lock, std::string* warning) {
  const uid_t uid = ::geteuid();
  const gid_t gid = ::getegid();
  const auto uids = FindIdRanges(ReadFile(options.subuid), options.user, uid);
  const auto gids = FindIdRanges(ReadFile(options.subgid), options.user, uid);
  const bool has_ranges = !uids.empty() && !gids.empty();
  const auto uid_map = MappingArguments(uid, uids);
  const auto gid_map = MappingArguments(gid, gids);
  int pipe[2];
  if (::pipe2(pipe, O_CLOEXEC) != 0) return NamespaceError("pipe2", "cannot make a pipe");
  UniqueFd wait_end(pipe[0]), go_end(pipe[1]);
  const pid_t self = ::getpid();
  const pid_t mapper = has_ranges ? ::fork() : 0;
  if (mapper < 0) return NamespaceError("fork", "cannot start newuidmap");
  if (has_ranges && mapper == 0) {
    go_end = UniqueFd();
    MapParent(self, wait_end.get(), uid_map, gid_map);
  }
  wait_end = UniqueFd();
  if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) {
    Error error = UnshareError();
    go_end = UniqueFd();  // the mapper ends
    if (has_ranges) ::waitpid(mapper, nullptr, 0);
    return error;
  }
  std::string why;
  if (has_ranges) {
    int status = -1;
    [[maybe_unused]] const ssize_t wrote = ::write(go_end.get(), "", 1);
    while (::waitpid(mapper, &status, 0) < 0 && errno == EINTR) {
    }
    const int failed = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
    if (failed == kNoGidMapper) {
      return Error{"ERR_USER_NAMESPACE", 0, "",
                   "newgidmap failed: install the package uidmap, and check /etc/subgid"};
    }
    if (failed != 0) why = "newuidmap failed: install the package uidmap, and check /etc/subuid";
  } else {
    const bool no_uids = uids.empty();
    why = std::string("no sub") + (no_uids ? "uid" : "gid") + " range for user " +
          (options.user.empty() ? std::to_string(uid) : options.user) + " in " +
          (no_uids ? options.subuid : options.subgid) + ": add one with usermod --add-sub" +
          (no_uids ? "uids" : "gids") + " 100000-165535";
  }
  if (!why.empty()) {
    CLEARVM_RETURN_IF_ERROR(MapAlone(uid, gid));
    *warning =
        why +
        "; then end the process clearvm-pause. Until then images can have files of root's only";
  }
  if (::setresgid(0, 0, 0) != 0 || ::setresuid(0, 0, 0) != 0) {
    return NamespaceError("setresuid", "cannot become root of the user namespace");
  }
  // What the host mounts and unmounts is to be seen here, never the reverse.
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0) {
    return NamespaceError("mount", "cannot make the mount namespace a follower of the host's");
  }
  // /proc/PID/ns of it is for later commands of the same user.
  ::prctl(PR_SET_DUMPABLE, 1);
  return StartPause(lock);
}

}  // namespace

Result<void> EnterUserNamespace(const UserNamespaceOptions& options, std::string* warning) {
  CLEARVM_ASSIGN(const UniqueFd directory, OpenOwnDirectory(options.directory));
  const UniqueFd lock(
      ::openat(directory.get(), kLockName, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!lock.valid()) {
    return NamespaceError("openat", "cannot open " + options.directory + "/" + kLockName);
  }
  CLEARVM_ASSIGN(const bool joined, Join(lock.get()));
  if (joined) return {};
  // Two first commands make one namespace.
  if (::flock(directory.get(), LOCK_EX) != 0) {
    return NamespaceError("flock", "cannot lock " + options.directory);
  }
  CLEARVM_ASSIGN(const bool joined_now, Join(lock.get()));
  if (joined_now) return {};
  return Make(options, lock.get(), warning);
}

}  // namespace clearvm::jail
