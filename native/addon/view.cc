// makeView, openInRoot: see src/vm/addon-types.ts.
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <thread>

#include "native/addon/addon.h"
#include "native/base/fd.h"
#include "native/jail/jail.h"

namespace clearvm::addon {
namespace {

struct ViewOptions {
  std::string place;
  pid_t vmm = 0;
  jail::Overlay overlay;
  struct Mount {
    std::string source;
    std::string target;
    bool read_only;
  };
  std::vector<Mount> mounts;
  bool read_only = true;
};

struct View {
  UniqueFd space;
  UniqueFd root;
};

Error ViewError(const char* syscall, std::string message) {
  return SystemError("ERR_VIEW", syscall, std::move(message));
}

// Whatever its symbolic links and ".." say, `path` leads to nothing outside of `root`.
UniqueFd OpenBelow(int root, const std::string& path, uint64_t flags) {
  open_how how{};
  how.flags = flags | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  constexpr int kTries = 100;
  for (int i = 0;; i++) {
    const int fd = static_cast<int>(::syscall(SYS_openat2, root, path.c_str(), &how, sizeof how));
    // Something was renamed meanwhile, and the kernel could not be sure.
    if (fd < 0 && errno == EAGAIN && i < kTries) continue;
    return UniqueFd(fd);
  }
}

Result<UniqueFd> OpenSpace(const std::string& path) {
  UniqueFd space(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!space.valid()) return ViewError("open", "cannot open " + path);
  return space;
}

// A copy of the root's mount of a VMM, which only its own namespace has.
Result<UniqueFd> CloneRootOf(pid_t vmm) {
  CLEARVM_ASSIGN(const UniqueFd ours, OpenSpace("/proc/thread-self/ns/mnt"));
  CLEARVM_ASSIGN(const UniqueFd theirs, OpenSpace("/proc/" + std::to_string(vmm) + "/ns/mnt"));
  if (::setns(theirs.get(), CLONE_NEWNS) != 0) {
    return ViewError("setns", "cannot enter the VMM's mount namespace");
  }
  UniqueFd tree(static_cast<int>(
      ::open_tree(AT_FDCWD, jail::kFirstOverlay, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)));
  const int failed = errno;
  if (::setns(ours.get(), CLONE_NEWNS) != 0) return ViewError("setns", "cannot come back");
  errno = failed;
  if (!tree.valid()) return ViewError("open_tree", "cannot find the container's root");
  return tree;
}

Result<void> SetReadOnly(int tree) {
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_RDONLY;
  if (::mount_setattr(tree, "", AT_EMPTY_PATH, &attributes, sizeof attributes) == 0) return {};
  return ViewError("mount_setattr", "cannot make a mount read-only");
}

Result<void> MountInside(int root, const ViewOptions::Mount& mount, bool read_only) {
  const UniqueFd target = OpenBelow(root, mount.target, O_PATH);
  // A container that was never started has not made it.
  if (!target.valid() && (errno == ENOENT || errno == ENOTDIR)) return {};
  if (!target.valid()) return ViewError("openat2", "cannot find " + mount.target);
  UniqueFd tree(static_cast<int>(
      ::open_tree(AT_FDCWD, mount.source.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)));
  if (!tree.valid()) return ViewError("open_tree", "cannot use the volume " + mount.source);
  if (read_only || mount.read_only) CLEARVM_RETURN_IF_ERROR(SetReadOnly(tree.get()));
  if (::move_mount(tree.get(), "", target.get(), "",
                   MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) == 0) {
    return {};
  }
  // A directory cannot lie over a file, nor the reverse: then it is not where the guest has it.
  if (errno == ENOTDIR) return {};
  return ViewError("move_mount", "cannot mount " + mount.source + " at " + mount.target);
}

// By a thread of its own, whose namespace it becomes.
Result<View> MakeInThread(const ViewOptions& options) {
  if (::unshare(CLONE_FS) != 0) return ViewError("unshare", "cannot leave the working directory");
  UniqueFd tree;
  if (options.vmm != 0) {
    CLEARVM_ASSIGN(tree, CloneRootOf(options.vmm));
  }
  if (::unshare(CLONE_NEWNS) != 0) return ViewError("unshare", "cannot make a mount namespace");
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mount("clearvm", options.place.c_str(), "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
              "size=64k,mode=0700") != 0) {
    return ViewError("mount", "cannot mount a tmpfs on " + options.place);
  }
  const std::string target = options.place + "/root";
  View view;
  if (tree.valid()) {
    if (options.read_only) CLEARVM_RETURN_IF_ERROR(SetReadOnly(tree.get()));
    if (::mkdir(target.c_str(), 0700) != 0 ||
        ::move_mount(tree.get(), "", AT_FDCWD, target.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0) {
      return ViewError("move_mount", "cannot mount the container's root");
    }
    view.root = UniqueFd(::open(target.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!view.root.valid()) return ViewError("open", "cannot open the container's root");
  } else {
    CLEARVM_ASSIGN(view.root, jail::MountOverlay(options.overlay, target));
  }
  for (const ViewOptions::Mount& mount : options.mounts) {
    CLEARVM_RETURN_IF_ERROR(MountInside(view.root.get(), mount, options.read_only));
  }
  CLEARVM_ASSIGN(view.space, OpenSpace("/proc/thread-self/ns/mnt"));
  return view;
}

Napi::Value MakeView(const Napi::CallbackInfo& info) {
  const auto given = info[0].As<Napi::Object>();
  ViewOptions options;
  const auto text = [](const Napi::Value& value) -> std::string {
    return value.As<Napi::String>();
  };
  options.place = text(given.Get("place"));
  options.read_only = given.Get("readOnly").ToBoolean();
  if (given.Has("vmm")) options.vmm = given.Get("vmm").As<Napi::Number>().Int32Value();
  if (given.Has("overlay")) {
    const auto overlay = given.Get("overlay").As<Napi::Object>();
    options.overlay.layers = text(overlay.Get("layers"));
    options.overlay.base = text(overlay.Get("base"));
    options.overlay.state = text(overlay.Get("state"));
    options.overlay.read_only = options.read_only;
    options.overlay.user_xattrs = overlay.Get("userXattrs").ToBoolean();
    const auto lower = overlay.Get("lower").As<Napi::Array>();
    for (uint32_t i = 0; i < lower.Length(); i++) {
      options.overlay.lower.push_back(text(lower.Get(i)));
    }
  }
  const auto mounts = given.Get("mounts").As<Napi::Array>();
  for (uint32_t i = 0; i < mounts.Length(); i++) {
    const auto mount = mounts.Get(i).As<Napi::Object>();
    options.mounts.push_back(
        {text(mount.Get("source")), text(mount.Get("target")), mount.Get("readOnly").ToBoolean()});
  }
  Result<View> made = Error{"ERR_VIEW", 0, "", "no thread"};
  std::thread([&] { made = MakeInThread(options); }).join();
  if (!made.ok()) throw ToJsError(info.Env(), made.error());
  View view = std::move(made).value();
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("space", Napi::Number::New(info.Env(), view.space.release()));
  result.Set("root", Napi::Number::New(info.Env(), view.root.release()));
  return result;
}

Napi::Value OpenInRoot(const Napi::CallbackInfo& info) {
  const int root = info[0].As<Napi::Number>().Int32Value();
  std::string path;
  if (info[1].IsBuffer()) {
    const auto bytes = info[1].As<Napi::Buffer<char>>();
    path.assign(bytes.Data(), bytes.Length());
  } else {
    path = info[1].As<Napi::String>();
  }
  const auto flags = static_cast<uint64_t>(info[2].As<Napi::Number>().Int64Value());
  UniqueFd fd = OpenBelow(root, path.empty() ? "." : path, flags);
  if (fd.valid()) return Napi::Number::New(info.Env(), fd.release());
  throw ToJsError(info.Env(), SystemError("ERR_OPEN", "openat2", path));
}

}  // namespace

void RegisterView(Napi::Env env, Napi::Object exports) {
  exports.Set("makeView", Napi::Function::New(env, MakeView));
  exports.Set("openInRoot", Napi::Function::New(env, OpenInRoot));
}

}  // namespace clearvm::addon
