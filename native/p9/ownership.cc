#include "native/p9/ownership.h"

#include <sys/xattr.h>

#include <cerrno>

namespace clearvm::p9 {

static_assert(sizeof(Owner) == 20, "the on-disk format has no padding");

bool ReadOwnerXattr(int fd, mode_t host_type, Owner* owner) {
  Owner found;
  if (fgetxattr(fd, kOwnerXattr, &found, sizeof(found)) != sizeof(found)) return false;
  const mode_t type = found.mode & S_IFMT;
  const bool fits = S_ISDIR(host_type) ? S_ISDIR(type)
                                       : S_ISREG(type) || S_ISCHR(type) || S_ISBLK(type) ||
                                             S_ISFIFO(type) || S_ISSOCK(type);
  if (!fits || (found.mode & ~(S_IFMT | 07777u)) != 0) return false;
  *owner = found;
  return true;
}

int WriteOwnerXattr(int fd, const Owner& owner) {
  return fsetxattr(fd, kOwnerXattr, &owner, sizeof(owner), 0) == 0 ? 0 : errno;
}

}  // namespace clearvm::p9
