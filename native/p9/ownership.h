// Ownership::kXattrs: the guest's idea of owner, mode and device number, kept in one extended
// attribute of the host file, because an unprivileged server can neither chown nor mknod.
#ifndef CLEARVM_P9_OWNERSHIP_H_
#define CLEARVM_P9_OWNERSHIP_H_

#include <sys/stat.h>

#include <cstdint>

namespace clearvm::p9 {

// 20 bytes: five little-endian 32-bit numbers, uid, gid, mode (type bits included), device major,
// device minor. Part of the on-disk formats: the engine writes it, too, where it unpacks images
// without privileges.
inline constexpr char kOwnerXattr[] = "user.clearvm.stat";
inline constexpr char kOwnerXattrPrefix[] = "user.clearvm.";

struct Owner {
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t mode = 0;
  uint32_t major = 0;
  uint32_t minor = 0;
};

// Reads the attribute of an open file. False where there is none, or none that fits a host file of
// type `host_type` (S_IFMT bits): a directory is a directory; a regular file may stand for any type
// but directory and symbolic link.
bool ReadOwnerXattr(int fd, mode_t host_type, Owner* owner);

// Returns 0 or fsetxattr(2)'s errno.
int WriteOwnerXattr(int fd, const Owner& owner);

}  // namespace clearvm::p9

#endif  // CLEARVM_P9_OWNERSHIP_H_
