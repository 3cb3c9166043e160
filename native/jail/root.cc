#include <fcntl.h>
#include <linux/mount.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "native/jail/jail.h"

// glibc 2.36 has fsopen(2) and its family in <sys/mount.h>; pivot_root(2) has no wrapper.

namespace clearvm::jail {
namespace {

// Always there, and already done with when the jail is entered: /dev/kvm is opened before.
constexpr char kMountPoint[] = "/dev";

Error JailError(const char* syscall, std::string message) {
  return SystemError("ERR_JAIL", syscall, std::move(message));
}

Result<UniqueFd> MountProc() {
  // subset=pid leaves /proc/sys and the like out: a broken VMM that runs as root must not find
  // them.
  UniqueFd context(::fsopen("proc", FSOPEN_CLOEXEC));
  if (!context.valid()) return JailError("fsopen", "cannot mount procfs");
  if (::fsconfig(context.get(), FSCONFIG_SET_STRING, "subset", "pid", 0) != 0 ||
      ::fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) {
    return JailError("fsconfig", "cannot mount procfs with subset=pid (Linux 5.8 or later)");
  }
  UniqueFd mount(::fsmount(context.get(), FSMOUNT_CLOEXEC,
                           MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
  if (!mount.valid()) return JailError("fsmount", "cannot mount procfs");
  UniqueFd fds(::openat(mount.get(), "self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!fds.valid()) return JailError("openat", "cannot open /proc/self/fd");
  return fds;
}

std::string PathOf(const UniqueFd& fd) { return "/proc/self/fd/" + std::to_string(fd.get()); }

// Makes a directory `target` in which the file is bind-mounted as "file".
Result<UniqueFd> WrapFile(UniqueFd file, const std::string& target) {
  const std::string inner = target + "/file";
  if (::mkdir(target.c_str(), 0755) != 0) return JailError("mkdir", "cannot make " + target);
  UniqueFd placeholder(::open(inner.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!placeholder.valid()) return JailError("open", "cannot make " + inner);
  if (::move_mount(file.get(), "", AT_FDCWD, inner.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0) {
    return JailError("move_mount", "cannot mount a shared file");
  }
  UniqueFd directory(::open(target.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid()) return JailError("open", "cannot open " + target);
  return directory;
}

Result<UniqueFd> CloneTree(const std::string& path, bool read_only) {
  UniqueFd tree(static_cast<int>(
      ::open_tree(AT_FDCWD, path.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE)));
  if (!tree.valid()) return SystemError("ERR_SHARE", "open_tree", "cannot share " + path);
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC |
                        (read_only ? MOUNT_ATTR_RDONLY : 0);
  if (::mount_setattr(tree.get(), "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes,
                      sizeof attributes) != 0) {
    return SystemError("ERR_SHARE", "mount_setattr", "cannot share " + path);
  }
  return tree;
}

Result<UniqueFd> MountShare(const Share& share, const std::string& target) {
  CLEARVM_ASSIGN(UniqueFd tree, CloneTree(share.path, share.read_only));
  struct stat info;
  if (::fstat(tree.get(), &info) != 0) {
    return SystemError("ERR_SHARE", "fstat", "cannot share " + share.path);
  }
  if (S_ISDIR(info.st_mode)) return tree;
  if (S_ISREG(info.st_mode)) return WrapFile(std::move(tree), target);
  return Error{"ERR_SHARE", 0, "",
               "cannot share " + share.path + ": neither a directory nor a regular file"};
}

// Puts a tmpfs at kMountPoint.
Result<void> MountTmpfs() {
  // What is mounted here must not reach the host, nor the reverse.
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return JailError("mount(MS_PRIVATE)", "cannot make the mount namespace private");
  }
  if (::mount("tmpfs", kMountPoint, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
              "size=64k,mode=0755") != 0) {
    return JailError("mount(tmpfs)", "cannot mount the jail's root");
  }
  return {};
}

Result<void> PivotInto(const char* root) {
  if (::chdir(root) != 0) return JailError("chdir", "cannot enter the jail");
  if (::syscall(SYS_pivot_root, ".", ".") != 0) {
    return JailError(
        "pivot_root",
        "cannot leave the host's root (it fails on an initramfs: switch_root to a real mount)");
  }
  // The old root lies over the new one now: "." is still the new one, and so is / after this.
  if (::umount2(".", MNT_DETACH) != 0 || ::chdir("/") != 0) {
    return JailError("umount2", "cannot let go of the host's root");
  }
  if (::mount(nullptr, "/", nullptr,
              MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0) {
    return JailError("mount(MS_REMOUNT)", "cannot make the jail's root read-only");
  }
  return {};
}

}  // namespace

Result<UniqueFd> MountOverlay(const Overlay& overlay, const std::string& target) {
  UniqueFd state;
  if (!overlay.state.empty()) {
    state = UniqueFd(::open(overlay.state.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  }
  if (!state.valid() && !overlay.state.empty()) {
    return SystemError("ERR_SHARE", "open", "the container's state directory " + overlay.state);
  }
  // The option string is limited to one page: names relative to the layers keep it short, and an fd
  // keeps commas in the state directory's path out of it.
  if (::chdir(overlay.layers.c_str()) != 0) {
    return SystemError("ERR_SHARE", "chdir", "the layers directory " + overlay.layers);
  }
  std::string options = "lowerdir=";
  for (size_t i = 0; i < overlay.lower.size(); i++) {
    if (i > 0) options += ':';
    options += overlay.lower[i];
  }
  UniqueFd base;
  if (!overlay.base.empty()) {
    base = UniqueFd(::open(overlay.base.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!base.valid()) return SystemError("ERR_SHARE", "open", "the directory " + overlay.base);
    options += ":" + PathOf(base);
  }
  if (state.valid()) {
    options += ",upperdir=" + PathOf(state) + "/upper,workdir=" + PathOf(state) + "/work";
  }
  if (overlay.user_xattrs) options += ",userxattr";
  if (::mkdir(target.c_str(), 0700) != 0) return JailError("mkdir", "cannot make " + target);
  if (::mount("overlay", target.c_str(), "overlay",
              MS_NODEV | MS_NOSUID | (overlay.read_only ? MS_RDONLY : 0), options.c_str()) != 0) {
    return SystemError("ERR_SHARE", "mount", "cannot mount the image's layers as an overlay");
  }
  UniqueFd root(::open(target.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!root.valid()) return JailError("open", "cannot open the overlay");
  return root;
}

Result<UniqueFd> PrepareRoot() {
  CLEARVM_RETURN_IF_ERROR(MountTmpfs());
  return MountProc();
}

Result<Entered> EnterRoot(const Plan& plan, UniqueFd prepared) {
  Entered entered;
  if (!prepared.valid()) {
    CLEARVM_ASSIGN(prepared, PrepareRoot());
  }
  entered.proc_self_fd = std::move(prepared);
  const std::string root = kMountPoint;
  for (size_t i = 0; i < plan.overlays.size(); i++) {
    UniqueFd upper;
    if (!plan.overlays[i].state.empty()) {
      CLEARVM_ASSIGN(upper, CloneTree(plan.overlays[i].state + "/upper", true));
    }
    entered.uppers.push_back(std::move(upper));
    CLEARVM_ASSIGN(UniqueFd fd,
                   MountOverlay(plan.overlays[i], root + "/overlay" + std::to_string(i)));
    entered.overlays.push_back(std::move(fd));
  }
  for (size_t i = 0; i < plan.shares.size(); i++) {
    CLEARVM_ASSIGN(UniqueFd fd, MountShare(plan.shares[i], root + "/share" + std::to_string(i)));
    entered.shares.push_back(std::move(fd));
  }
  if (!plan.socket_directory.empty()) {
    const std::string target = root + "/vsock";
    CLEARVM_ASSIGN(UniqueFd tree, CloneTree(plan.socket_directory, false));
    if (::mkdir(target.c_str(), 0700) != 0 ||
        ::move_mount(tree.get(), "", AT_FDCWD, target.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0) {
      return JailError("move_mount", "cannot mount the vsock directory");
    }
  }
  CLEARVM_RETURN_IF_ERROR(PivotInto(kMountPoint));
  return entered;
}

Result<Entered> OpenUnconfined(const Plan& plan) {
  if (!plan.overlays.empty()) {
    return Error{"ERR_JAIL", 0, "", "an overlay needs a mount namespace: not with --jail none"};
  }
  Entered entered;
  for (const Share& share : plan.shares) {
    UniqueFd fd(::open(share.path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!fd.valid()) return SystemError("ERR_SHARE", "open", "cannot share " + share.path);
    entered.shares.push_back(std::move(fd));
  }
  entered.proc_self_fd = UniqueFd(::open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!entered.proc_self_fd.valid() && !plan.shares.empty()) {
    return JailError("open", "cannot open /proc/self/fd");
  }
  return entered;
}

}  // namespace clearvm::jail
