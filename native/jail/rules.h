// The system calls that each kind of thread may make. The compiler evaluates all of it.
#ifndef CLEARVM_JAIL_RULES_H_
#define CLEARVM_JAIL_RULES_H_

#include <asm/ioctls.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <initializer_list>

#include "native/base/linux_kvm.h"
#include "native/jail/seccomp.h"

namespace clearvm::jail {

constexpr void AddRules(Rules& rules, std::initializer_list<uint32_t> numbers) {
  for (uint32_t number : numbers) rules.push_back({number});
}

// What the C library needs of any thread: locks, the heap, signal return, the end.
constexpr void AddCommonRules(Rules& rules) {
  AddRules(rules,
           {SYS_read, SYS_write, SYS_futex, SYS_close, SYS_epoll_wait, SYS_epoll_ctl, SYS_brk,
            SYS_munmap, SYS_mremap, SYS_madvise, SYS_rt_sigreturn, SYS_rt_sigprocmask,
            SYS_clock_gettime, SYS_exit, SYS_exit_group, SYS_restart_syscall});
  // The heap grows by these; nothing is ever made executable.
  rules.push_back({SYS_mmap, 2, {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE}});
  rules.push_back({SYS_mprotect, 2, {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE}});
}

constexpr void AddVcpuRules(Rules& rules) {
  // KVM_RUN, and what a write to a register may cause: routes of interrupts, eventfds, the vCPU's
  // state for a report of an exit that is not handled.
  rules.push_back({SYS_ioctl,
                   1,
                   {static_cast<uint32_t>(KVM_RUN), static_cast<uint32_t>(KVM_SET_GSI_ROUTING),
                    static_cast<uint32_t>(KVM_GET_REGS), static_cast<uint32_t>(KVM_GET_SREGS),
                    static_cast<uint32_t>(KVM_GET_STATS_FD)}});
  rules.push_back({SYS_pread64});  // KVM's statistics
}

// What pthread_create takes, what a new thread of the C library's does first, and EndStarting.
inline constexpr uint32_t kStarting[] = {SYS_clone3, SYS_clone, SYS_set_robust_list, SYS_rseq,
                                         SYS_seccomp};

constexpr void AddMainRules(Rules& rules) {
  // The control socket; a vCPU is kicked out of KVM_RUN by a signal.
  AddRules(rules, {SYS_recvfrom, SYS_sendto, SYS_recvmsg, SYS_sendmsg, SYS_tgkill, SYS_getpid,
                   SYS_gettid, SYS_writev, SYS_fcntl, SYS_getrandom, SYS_pread64, SYS_pwrite64,
                   SYS_poll, SYS_accept4, SYS_newfstatat, SYS_lseek, SYS_timerfd_settime});
  // Descriptors that come with an EXEC: is it a terminal? What a snapshot reads out of KVM, and
  // compares with a vCPU of a VM that is made for it.
  rules.push_back(
      {SYS_ioctl,
       1,
       {TCGETS, static_cast<uint32_t>(KVM_GET_REGS), static_cast<uint32_t>(KVM_GET_SREGS),
        static_cast<uint32_t>(KVM_GET_MP_STATE), static_cast<uint32_t>(KVM_GET_XCRS),
        static_cast<uint32_t>(KVM_GET_XSAVE), static_cast<uint32_t>(KVM_GET_DEBUGREGS),
        static_cast<uint32_t>(KVM_GET_LAPIC), static_cast<uint32_t>(KVM_GET_VCPU_EVENTS),
        static_cast<uint32_t>(KVM_GET_MSRS), static_cast<uint32_t>(KVM_GET_CLOCK),
        static_cast<uint32_t>(KVM_GET_MSR_INDEX_LIST), static_cast<uint32_t>(KVM_CREATE_VM),
        static_cast<uint32_t>(KVM_ENABLE_CAP), static_cast<uint32_t>(KVM_CREATE_VCPU),
        static_cast<uint32_t>(KVM_SET_CPUID2), static_cast<uint32_t>(KVM_CHECK_EXTENSION),
        static_cast<uint32_t>(KVM_GET_VCPU_MMAP_SIZE)}});
  // A pipe that comes with an EXEC is opened a second time.
  rules.push_back({SYS_openat,
                   2,
                   {O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY,
                    O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY}});
}

constexpr void AddIoRules(Rules& rules) {
  AddRules(rules,
           {SYS_readv, SYS_writev, SYS_recvfrom, SYS_sendto, SYS_recvmsg, SYS_sendmsg, SYS_poll,
            SYS_ppoll, SYS_shutdown, SYS_accept4, SYS_connect, SYS_getsockopt, SYS_getrandom});
  rules.push_back({SYS_socket, 0, {AF_UNIX}});
}

constexpr void AddFileServerRules(Rules& rules) {
  AddRules(rules,
           {SYS_openat,    SYS_openat2,   SYS_newfstatat, SYS_statx,        SYS_fstat,
            SYS_fstatfs,   SYS_preadv,    SYS_preadv2,    SYS_pwritev,      SYS_pwritev2,
            SYS_pread64,   SYS_pwrite64,  SYS_lseek,      SYS_getdents64,   SYS_mkdirat,
            SYS_mknodat,   SYS_symlinkat, SYS_linkat,     SYS_readlinkat,   SYS_unlinkat,
            SYS_renameat,  SYS_renameat2, SYS_fchmod,     SYS_fchmodat,     SYS_fchown,
            SYS_fchownat,  SYS_utimensat, SYS_ftruncate,  SYS_fsync,        SYS_fdatasync,
            SYS_fgetxattr, SYS_fsetxattr, SYS_flistxattr, SYS_fremovexattr, SYS_sched_yield});
  // OFD locks and duplicates of descriptors.
  rules.push_back({SYS_fcntl, 1, {F_OFD_SETLK, F_OFD_GETLK, F_DUPFD_CLOEXEC, F_GETFL}});
}

// The allow-list of a kind of thread.
constexpr Rules RulesFor(ThreadKind kind) {
  Rules rules;
  AddCommonRules(rules);
  if (kind == ThreadKind::kMain) AddMainRules(rules);
  if (kind == ThreadKind::kVcpu || kind == ThreadKind::kVcpuStarter) AddVcpuRules(rules);
  if (kind == ThreadKind::kVcpuStarter) {
    for (uint32_t number : kStarting) rules.push_back({number});
  }
  if (kind == ThreadKind::kIo) AddIoRules(rules);
  if (kind == ThreadKind::kFs) AddFileServerRules(rules);
  return rules;
}

}  // namespace clearvm::jail

#endif  // CLEARVM_JAIL_RULES_H_
