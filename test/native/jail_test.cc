#include "native/jail/jail.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "native/base/linux_kvm.h"
#include "native/jail/rules.h"
#include "native/jail/seccomp.h"

namespace clearvm::jail {
namespace {

// Runs `body` in a child, and returns its wait status.
int InChild(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

bool Contains(const Rules& rules, uint32_t number) {
  for (const Rule& rule : rules) {
    if (rule.number == number) return true;
  }
  return false;
}

TEST(Seccomp, NoThreadMayExecuteForkOrTrace) {
  for (ThreadKind kind : {ThreadKind::kMain, ThreadKind::kVcpu, ThreadKind::kIo, ThreadKind::kFs}) {
    const auto rules = RulesFor(kind);
    for (uint32_t number : {SYS_execve, SYS_execveat, SYS_fork, SYS_vfork, SYS_clone, SYS_clone3,
                            SYS_ptrace, SYS_mount, SYS_setns, SYS_unshare, SYS_bpf, SYS_kill}) {
      EXPECT_FALSE(Contains(rules, number)) << number;
    }
  }
}

TEST(Seccomp, OnlyTheFileServerMayNameFiles) {
  for (ThreadKind kind : {ThreadKind::kMain, ThreadKind::kVcpu, ThreadKind::kIo}) {
    const auto rules = RulesFor(kind);
    for (uint32_t number : {SYS_open, SYS_openat2, SYS_unlinkat, SYS_renameat2}) {
      EXPECT_FALSE(Contains(rules, number)) << number;
    }
    if (kind != ThreadKind::kMain) {
      EXPECT_FALSE(Contains(rules, SYS_openat));
    }
  }
}

// The filters themselves, as the kernel judges them. Not built with ASan's own system calls in
// mind: the child makes raw calls only.
int Confined(ThreadKind kind, const std::function<void()>& body) {
  return InChild([&] {
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || !ConfineThread(kind).ok()) return 99;
    body();
    ::syscall(SYS_exit_group, 0);
    return 98;
  });
}

// What comes with an EXEC is opened once more, and nothing is made or cut.
TEST(Seccomp, TheMainThreadOnlyOpensPipesAndTerminalsAgain) {
  constexpr int kAgain = O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
  const auto body = [](int flags) {
    return [flags] { ::syscall(SYS_openat, AT_FDCWD, "/dev/null", flags, 0600); };
  };
  for (int mode : {O_RDONLY, O_WRONLY}) {
    const int status = Confined(ThreadKind::kMain, body(mode | kAgain));
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << mode << ": " << status;
  }
  for (int flags : {O_RDONLY, O_RDWR | kAgain, O_WRONLY | O_CREAT | kAgain,
                    O_WRONLY | O_TRUNC | kAgain, O_WRONLY | O_APPEND | kAgain}) {
    const int status = Confined(ThreadKind::kMain, body(flags));
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS) << flags << ": " << status;
  }
}

TEST(Seccomp, LetsThroughWhatIsListed) {
  const int status = Confined(ThreadKind::kVcpu, [] {
    ::syscall(SYS_write, -1, nullptr, 0);
    ::syscall(SYS_ioctl, -1, KVM_RUN, 0);
  });
  ASSERT_TRUE(WIFEXITED(status)) << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(Seccomp, TrapsEverythingElse) {
  for (int number : {SYS_openat, SYS_socket, SYS_execve}) {
    const int status = Confined(ThreadKind::kVcpu, [number] { ::syscall(number, -1, 0, 0, 0); });
    ASSERT_TRUE(WIFSIGNALED(status)) << number;
    EXPECT_EQ(WTERMSIG(status), SIGSYS) << number;
  }
}

TEST(Seccomp, ThreadsAreStartedUntilTheEndOfStarting) {
  // By the system call: the sanitizer's pthread_create makes others, too.
  int ended[2];
  ASSERT_EQ(::pipe(ended), 0);
  const auto create = [&] {
    const long child = ::syscall(SYS_clone, 0, nullptr, nullptr, nullptr, 0);
    if (child < 0) ::syscall(SYS_exit_group, 97);
    if (child == 0 && EndStarting().ok()) ::syscall(SYS_write, ended[1], "e", 1);
  };
  const int before = Confined(ThreadKind::kVcpuStarter, create);
  EXPECT_TRUE(WIFEXITED(before) && WEXITSTATUS(before) == 0) << before;
  const int after = Confined(ThreadKind::kVcpuStarter, [&] {
    if (EndStarting().ok()) create();
  });
  EXPECT_TRUE(WIFSIGNALED(after) && WTERMSIG(after) == SIGSYS) << after;
  ::close(ended[1]);
  char text[2];
  EXPECT_EQ(::read(ended[0], text, sizeof text), 1);
  ::close(ended[0]);
}

TEST(Seccomp, ChecksArguments) {
  const int status =
      Confined(ThreadKind::kVcpu, [] { ::syscall(SYS_ioctl, -1, KVM_CREATE_VM, 0); });
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGSYS);
}

class Jail : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    // On the current directory's file system: overlayfs wants one that can hold an upper layer.
    char name[] = "/tmp/clearvm-jail-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    directory_ = name;
    std::filesystem::create_directories(directory_ / "share/inner");
    std::ofstream(directory_ / "share/file-in-share") << "shared";
    std::ofstream(directory_ / "single") << "one file";
  }
  void TearDown() override {
    if (!directory_.empty()) std::filesystem::remove_all(directory_);
  }

  // Runs `body` in a child that has entered the jail of `plan`; 0 means that all it checked held.
  int InJail(const Plan& plan, const std::function<int(Entered&)>& body) {
    return InChild([&] {
      if (::unshare(CLONE_NEWNS) != 0) return 97;
      auto entered = EnterRoot(plan);
      if (!entered.ok()) {
        std::fprintf(stderr, "%s\n", entered.error().message.c_str());
        return 96;
      }
      return body(entered.value());
    });
  }

  std::filesystem::path directory_;
};

TEST_F(Jail, HoldsNothingOfTheHost) {
  const int status = InJail({}, [](Entered&) {
    for (const char* path : {"/etc", "/proc", "/usr", "/bin", "/tmp", "/dev"}) {
      if (::access(path, F_OK) == 0) return 1;
    }
    if (::mkdir("/x", 0700) == 0 || errno != EROFS) return 2;
    // The way out that a chroot would leave.
    if (::chdir("/") != 0 || ::chdir("../../..") != 0 || ::access("etc", F_OK) == 0) return 3;
    return 0;
  });
  EXPECT_EQ(status, 0);
}

TEST_F(Jail, SharesAreThereByDescriptorOnly) {
  Plan plan;
  plan.shares = {{(directory_ / "share").string(), false},
                 {(directory_ / "share").string(), true},
                 {(directory_ / "single").string(), false}};
  const int status = InJail(plan, [](Entered& entered) {
    const int writable = entered.shares[0].get(), read_only = entered.shares[1].get();
    if (::faccessat(writable, "file-in-share", R_OK, 0) != 0) return 1;
    if (::mkdirat(writable, "made", 0700) != 0) return 2;
    if (::mkdirat(read_only, "refused", 0700) == 0 || errno != EROFS) return 3;
    UniqueFd file(::openat(entered.shares[2].get(), "file", O_WRONLY | O_TRUNC));
    if (!file.valid() || ::write(file.get(), "new", 3) != 3) return 4;
    return 0;
  });
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(std::filesystem::exists(directory_ / "share/made"));
  std::string text;
  std::ifstream(directory_ / "single") >> text;
  EXPECT_EQ(text, "new");
}

TEST_F(Jail, ItsProcShowsThisProcessOnly) {
  const int status = InJail({}, [](Entered& entered) {
    UniqueFd null(::openat(entered.proc_self_fd.get(), "0", O_RDONLY));
    if (!null.valid()) return 1;
    for (const char* path :
         {"../../sys/kernel/hostname", "../../sysrq-trigger", "../../kallsyms"}) {
      if (::faccessat(entered.proc_self_fd.get(), path, F_OK, 0) == 0) return 2;
    }
    return 0;
  });
  EXPECT_EQ(status, 0);
}

TEST_F(Jail, AMissingShareIsNamed) {
  const int status = InChild([] {
    if (::unshare(CLONE_NEWNS) != 0) return 97;
    Plan plan;
    plan.shares = {{"/no/such/directory", false}};
    const auto entered = EnterRoot(plan);
    return !entered.ok() && entered.error().code == "ERR_SHARE" &&
                   entered.error().message.find("/no/such/directory") != std::string::npos
               ? 0
               : 1;
  });
  EXPECT_EQ(status, 0);
}

TEST_F(Jail, DropsEveryCapabilityThatFilesDoNotNeed) {
  const int status = InChild([] {
    if (!DropPrivileges(true, true).ok()) return 1;
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2]{};
    ::syscall(SYS_capget, &header, data);
    const auto has = [&](int cap) { return (data[0].effective >> cap & 1) != 0; };
    if (!has(CAP_CHOWN) || !has(CAP_MKNOD)) return 2;
    for (int cap :
         {CAP_SYS_ADMIN % 32, CAP_NET_ADMIN, CAP_SYS_PTRACE, CAP_SETUID, CAP_SYS_CHROOT}) {
      if (has(cap)) return 3;
    }
    if (::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) return 4;
    return DropPrivileges(false, false).ok() && ::syscall(SYS_capget, &header, data) == 0 &&
                   data[0].permitted == 0
               ? 0
               : 5;
  });
  EXPECT_EQ(status, 0);
}

TEST_F(Jail, AReadOnlyExportNeedsLess) {
  const int status = InChild([] {
    if (!DropPrivileges(true, false).ok()) return 1;
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2]{};
    ::syscall(SYS_capget, &header, data);
    return data[0].permitted == 1u << CAP_DAC_READ_SEARCH && data[1].permitted == 0 ? 0 : 2;
  });
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace clearvm::jail
