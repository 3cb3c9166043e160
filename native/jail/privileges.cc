#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <algorithm>

#include "native/jail/jail.h"

namespace clearvm::jail {
namespace {

constexpr uint64_t Bit(int capability) { return 1ull << capability; }

// Reading files of any owner.
constexpr uint64_t kReadCapabilities = Bit(CAP_DAC_READ_SEARCH);
// What docker's containers may do to files as root, done here on their behalf; CAP_SETFCAP for
// security.capability.
constexpr uint64_t kWriteCapabilities = kReadCapabilities | Bit(CAP_DAC_OVERRIDE) | Bit(CAP_CHOWN) |
                                        Bit(CAP_FOWNER) | Bit(CAP_FSETID) | Bit(CAP_MKNOD) |
                                        Bit(CAP_SETFCAP);

// One fd per fid, and fids are as many as the guest's dentries.
constexpr rlim_t kMaxOpenFiles = 1 << 20;

Result<void> Limit(int resource, rlim_t soft, rlim_t hard) {
  const rlimit limit{soft, hard};
  if (::setrlimit(static_cast<__rlimit_resource>(resource), &limit) != 0) {
    return SystemError("ERR_JAIL", "setrlimit", "cannot set a resource limit");
  }
  return {};
}

}  // namespace

Result<void> DropPrivileges(bool exports, bool writable) {
  rlimit files;
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0) {
    return SystemError("ERR_JAIL", "getrlimit", "cannot read the limit of open files");
  }
  const rlim_t most = std::min(files.rlim_max, kMaxOpenFiles);
  CLEARVM_RETURN_IF_ERROR(Limit(RLIMIT_NOFILE, most, most));
  CLEARVM_RETURN_IF_ERROR(Limit(RLIMIT_CORE, 0, 0));  // a core would hold the guest's memory

  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  if (::syscall(SYS_capget, &header, data) != 0) {
    return SystemError("ERR_JAIL", "capget", "cannot read the capabilities");
  }
  const uint64_t held = data[0].permitted | static_cast<uint64_t>(data[1].permitted) << 32;
  const uint64_t wanted = !exports ? 0 : writable ? kWriteCapabilities : kReadCapabilities;
  const uint64_t kept = held & wanted;
  // The bounding set matters only across execve, which no_new_privs and seccomp rule out: not worth
  // 41 system calls.
  for (int i = 0; i < 2; i++) {
    data[i].permitted = data[i].effective = static_cast<uint32_t>(kept >> (32 * i));
    data[i].inheritable = 0;
  }
  if (::syscall(SYS_capset, &header, data) != 0) {
    return SystemError("ERR_JAIL", "capset", "cannot drop capabilities");
  }
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    return SystemError("ERR_JAIL", "prctl(PR_SET_NO_NEW_PRIVS)", "cannot give up new privileges");
  }
  return {};
}

}  // namespace clearvm::jail
