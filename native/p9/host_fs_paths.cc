// Files by their paths, and files that have none: what a session needs to go on elsewhere.
#include <fcntl.h>
#include <linux/limits.h>
#include <linux/openat2.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "native/p9/host_fs.h"

namespace clearvm::p9 {

uint32_t HostFs::used_prefixes() const {
  return static_cast<uint32_t>(std::min<uint64_t>(first_prefix_ + prefixes_.size(), UINT16_MAX));
}

void HostFs::ForgetQids(uint32_t used) {
  prefixes_.clear();
  kept_.clear();
  first_prefix_ = used;
}

Errno HostFs::FindPath(const Node& root, const Node& node, std::string* path) {
  struct stat is;
  struct stat found;
  if (fstat(node.fd.get(), &is) < 0) return errno;
  if (is.st_dev == root.device && is.st_ino == root.inode) {
    path->clear();
    return 0;
  }
  // The kernel knows where a descriptor's file is now, whatever was renamed since it was opened.
  const auto name_of = [this](const Node& which, std::string* name) -> Errno {
    char text[PATH_MAX];
    const ssize_t size =
        readlinkat(proc_self_fd_.get(), ProcName(which.fd.get()).text, text, sizeof text);
    if (size < 0) return errno;
    if (static_cast<size_t>(size) == sizeof text) return ENAMETOOLONG;
    name->assign(text, static_cast<size_t>(size));
    return 0;
  };
  std::string top;
  std::string full;
  if (const Errno error = name_of(root, &top); error != 0) return error;
  if (const Errno error = name_of(node, &full); error != 0) return error;
  if (top == "/") top.clear();
  if (full.size() <= top.size() + 1 || !full.starts_with(top) || full[top.size()] != '/') {
    return ENOENT;
  }
  *path = full.substr(top.size() + 1);
  // A name that was removed has " (deleted)" behind it, which may be another file's name.
  NodeRef there;
  if (const Errno error = OpenPath(root, *path, &there); error != 0) return ENOENT;
  if (fstat(there->fd.get(), &found) < 0) return errno;
  return is.st_dev == found.st_dev && is.st_ino == found.st_ino ? 0 : ENOENT;
}

Errno HostFs::OpenPath(const Node& root, const std::string& path, NodeRef* node) {
  if (path.find('\0') != path.npos) return EINVAL;
  open_how how = {};
  how.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS;
  int fd;
  do {
    fd = static_cast<int>(
        syscall(SYS_openat2, root.fd.get(), path.empty() ? "." : path.c_str(), &how, sizeof(how)));
  } while (fd < 0 && (errno == EAGAIN || errno == EINTR));
  if (fd < 0) return errno;
  return Adopt(UniqueFd(fd), node);
}

Errno HostFs::MakeNameless(const Node& root, const NewFile& file, NodeRef* node, UniqueFd* io) {
  if (read_only_) return EROFS;
  uint64_t random;
  if (getrandom(&random, sizeof random, 0) != sizeof random) return EIO;
  char text[32];
  std::snprintf(text, sizeof text, ".clearvm-%016llx", static_cast<unsigned long long>(random));
  EntryName name;
  if (const Errno error = name.Set(text); error != 0) return error;
  const bool directory = S_ISDIR(file.mode);
  const Errno error = S_ISREG(file.mode) ? MakeAndOpen(root, name, file, O_RDWR, node)
                                         : Make(root, name, file, node);
  if (error != 0) return error;
  if (unlinkat(root.fd.get(), name.c_str(), directory ? AT_REMOVEDIR : 0) < 0) return errno;
  if (!S_ISREG(file.mode)) return 0;
  *io = UniqueFd(fcntl((*node)->fd.get(), F_DUPFD_CLOEXEC, 3));
  return io->valid() ? 0 : errno;
}

Errno HostFs::ReadTarget(const Node& link, std::string* target) {
  char text[PATH_MAX];
  const ssize_t size = readlinkat(link.fd.get(), "", text, sizeof text);
  if (size < 0) return errno;
  target->assign(text, static_cast<size_t>(size));
  return 0;
}

}  // namespace clearvm::p9
