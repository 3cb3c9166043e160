// What a VMM shuts itself into before it touches guest input: namespaces, an empty root, few
// capabilities. See namespaces(7), pivot_root(2), capabilities(7).
#ifndef CLEARVM_JAIL_JAIL_H_
#define CLEARVM_JAIL_JAIL_H_

#include <string>
#include <vector>

#include "native/base/fd.h"
#include "native/base/result.h"

namespace clearvm::jail {

// A directory (or one file) that the VM is given.
struct Share {
  std::string
      path;  // on the host; a regular file becomes a directory that holds it under the name "file"
  bool read_only = false;
};

// A container's root: an overlayfs over unpacked layers, mounted in the jail's own mount namespace.
struct Overlay {
  std::string layers;              // the directory that holds the lower ones
  std::vector<std::string> lower;  // names in it, topmost first; no '/', ':', ',' or '\'
  std::string base;                // a directory below all of them; empty: none
  std::string state;               // a directory that holds "upper" and "work"; empty: read-only
  bool read_only = false;
  // Whiteouts of directories and the like are user.overlay.* instead of trusted.overlay.*, as a
  // mount in a user namespace needs them.
  bool user_xattrs = false;
};

// Where the first overlay of a plan is mounted, below the jail's root.
inline constexpr char kFirstOverlay[] = "/overlay0";

struct Plan {
  std::vector<Overlay> overlays;
  std::vector<Share> shares;
  std::string socket_directory;  // mounted as /vsock; empty: none
};

// What is left of the host: roots of the exports, in the plan's order, each the root of a mount of
// its own.
struct Entered {
  std::vector<UniqueFd> overlays;
  // Their upper directories, to look at only: what is there is not the image's. Invalid: none.
  std::vector<UniqueFd> uppers;
  std::vector<UniqueFd> shares;
  // /proc/self/fd of a procfs that shows this process and nothing else: how an O_PATH fd is
  // reopened.
  UniqueFd proc_self_fd;
};

// Moves this process into new mount, net, ipc and uts namespaces, and forks into a new pid
// namespace. Returns in the child only, which dies with its parent; the parent waits, and exits as
// the child did (128 + n for a signal). Call before any thread exists. Needs CAP_SYS_ADMIN. Errors:
// ERR_JAIL.
Result<void> UnshareNamespaces();

// Moves this thread, while it is the only one, into the network namespace that is bound to `path`:
// an empty one, which VMs may share, for they have no sockets but Unix ones. Making one takes
// longer than all the other namespaces together. Where `path` (empty: none) cannot be used, makes
// one. Errors: ERR_JAIL.
Result<void> EnterNetwork(const std::string& path);

// Mounts an overlay on the directory `target`, which it makes, and returns its root. It changes the
// working directory. Errors: ERR_SHARE (a path of the overlay), ERR_JAIL.
Result<UniqueFd> MountOverlay(const Overlay& overlay, const std::string& target);

// The part of EnterRoot that no plan has a say in, for those who have time before they know theirs.
// Errors: ERR_JAIL.
Result<UniqueFd> PrepareRoot();

// Mounts what the plan names and makes it all there is: afterwards / is an empty read-only tmpfs
// but for the mount points. Call in a mount namespace of its own. `prepared`: what PrepareRoot has
// returned, if it was called. Errors: ERR_JAIL, ERR_SHARE (a path of the plan).
Result<Entered> EnterRoot(const Plan& plan, UniqueFd prepared = UniqueFd());

// The same fds without any confinement, for `--jail none`: no overlays. Errors: ERR_SHARE,
// ERR_JAIL.
Result<Entered> OpenUnconfined(const Plan& plan);

// Gives up every capability but those that serving files needs (`writable`: on behalf of any owner;
// otherwise reading only; `exports` false: none), sets no_new_privs and the resource limits.
// Errors: ERR_JAIL.
Result<void> DropPrivileges(bool exports, bool writable);

}  // namespace clearvm::jail

#endif  // CLEARVM_JAIL_JAIL_H_
