#include "native/jail/sandbox.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "native/base/fd.h"

namespace clearvm::jail {
namespace {

// What tar may still do as root: give files their owners, modes and capabilities.
constexpr uint64_t kCapabilities = 1ull << CAP_CHOWN | 1ull << CAP_DAC_OVERRIDE |
                                   1ull << CAP_FOWNER | 1ull << CAP_FSETID | 1ull << CAP_MKNOD |
                                   1ull << CAP_SETFCAP;
constexpr rlim_t kMemoryLimit = 1 << 30;

Error SandboxError(const char* syscall, std::string message) {
  return SystemError("ERR_SANDBOX", syscall, std::move(message));
}

Result<UniqueFd> CopyMount(const std::string& path, unsigned recursive, uint64_t attributes) {
  UniqueFd tree(static_cast<int>(
      ::open_tree(AT_FDCWD, path.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | recursive)));
  if (!tree.valid()) return SandboxError("open_tree", "cannot copy the mount of " + path);
  mount_attr attr{};
  attr.attr_set = attributes;
  if (::mount_setattr(tree.get(), "", AT_EMPTY_PATH | recursive, &attr, sizeof attr) != 0) {
    return SandboxError("mount_setattr", "cannot restrict the mount of " + path);
  }
  return tree;
}

Result<void> Place(const UniqueFd& tree, const std::string& path) {
  if (::move_mount(tree.get(), "", AT_FDCWD, path.c_str(), MOVE_MOUNT_F_EMPTY_PATH) == 0) return {};
  return SandboxError("move_mount", "cannot mount on " + path);
}

}  // namespace

Result<void> EnterSandbox(const std::string& scratch, const std::string& target) {
  // What lies below / has to come along: in a user namespace, nothing that the host has mounted
  // over may be uncovered.
  CLEARVM_ASSIGN(
      const UniqueFd root,
      CopyMount("/", AT_RECURSIVE, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID));
  CLEARVM_ASSIGN(const UniqueFd into, CopyMount(target, 0, MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID));
  CLEARVM_RETURN_IF_ERROR(Place(root, scratch));
  // Whatever is mounted there: tar falls back to plain calls only where /proc is empty.
  if (::mount("none", (scratch + "/proc").c_str(), "tmpfs", MS_RDONLY, nullptr) != 0) {
    return SandboxError("mount", "cannot cover /proc");
  }
  CLEARVM_RETURN_IF_ERROR(Place(into, scratch + "/tmp"));
  if (::chroot(scratch.c_str()) != 0 || ::chdir("/tmp") != 0) {
    return SandboxError("chroot", "cannot enter " + scratch);
  }
  const rlimit memory{kMemoryLimit, kMemoryLimit};
  if (::setrlimit(RLIMIT_AS, &memory) != 0) {
    return SandboxError("setrlimit", "cannot limit the memory");
  }
  // Root's capabilities after an execve are those of the bounding set.
  for (int capability = 0; ::prctl(PR_CAPBSET_READ, capability) >= 0; capability++) {
    if ((kCapabilities >> capability & 1) == 0 && ::prctl(PR_CAPBSET_DROP, capability) != 0) {
      return SandboxError("prctl", "cannot drop capabilities");
    }
  }
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    return SandboxError("prctl", "cannot give up new privileges");
  }
  return {};
}

}  // namespace clearvm::jail
