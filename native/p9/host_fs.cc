#include "native/p9/host_fs.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>

namespace clearvm::p9 {
namespace {

// v9fs takes files whose qids are equal for one inode, version included, and keeps one page cache
// for each. A version that moved with the modification time would give one file two page caches,
// one of them stale. Not 0: from 6.4 on v9fs does not cache such files at all.
constexpr uint32_t kQidVersion = 1;

constexpr int kInodeBits = 48;
constexpr uint64_t kMaxPrefixes = 0xffff;
constexpr int kMaxDepth = 4096;  // of a directory below the root, for WalkUp
constexpr uint32_t kNobody = 65534;

Errno Check(int result) { return result < 0 ? errno : 0; }

// fstat(2) itself: the C library turns it into the slower newfstatat.
Errno Fstat(int fd, struct stat* attributes) {
  return Check(static_cast<int>(syscall(SYS_fstat, fd, attributes)));
}

// The bits that a write clears: set-user-id, and set-group-id where it is not the mark of mandatory
// locking.
mode_t SetIdBits(mode_t mode) {
  if (!S_ISREG(mode)) return 0;
  mode_t bits = mode & S_ISUID;
  if ((mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP)) bits |= S_ISGID;
  return bits;
}

// Host permissions of a file whose real ones are in its attribute: the server must always get at
// it.
mode_t HostMode(mode_t mode) { return (mode & 0777) | (S_ISDIR(mode) ? 0700 : 0600); }

}  // namespace

Errno EntryName::Set(std::string_view name) {
  if (name.size() > kMaxName) return ENAMETOOLONG;
  if (name.empty() || name == "." || name == "..") return EINVAL;
  for (const char c : name) {
    if (c == '/' || c == '\0') return EINVAL;
  }
  std::memcpy(text_, name.data(), name.size());
  text_[name.size()] = '\0';
  return 0;
}

HostFs::ProcName::ProcName(int fd) { *std::to_chars(text, text + sizeof(text) - 1, fd).ptr = '\0'; }

HostFs::HostFs(UniqueFd proc_self_fd, Ownership ownership, bool read_only, bool exclusive)
    : proc_self_fd_(std::move(proc_self_fd)),
      ownership_(ownership),
      read_only_(read_only),
      exclusive_(exclusive),
      server_uid_(geteuid()),
      server_gid_(getegid()) {}

uint64_t HostFs::QidPath(dev_t device, ino_t inode) {
  // The lower 48 bits of the inode number as they are, above them a number for (device, upper 16
  // bits): unique, and the inode number itself for the first device, which is the root's.
  constexpr uint64_t kLower = (uint64_t{1} << kInodeBits) - 1;
  if (!kept_.empty()) {
    if (const auto kept = kept_.find({device, inode}); kept != kept_.end()) return kept->second;
  }
  const PrefixKey key{device, inode >> kInodeBits};
  if (prefixes_.empty() || !(key == last_key_)) {
    const uint64_t next = first_prefix_ + prefixes_.size();
    uint64_t prefix = kMaxPrefixes;
    if (const auto found = prefixes_.find(key); found != prefixes_.end()) {
      prefix = found->second;
    } else if (next < kMaxPrefixes) {
      prefix = next;
      prefixes_.emplace(key, next);
    } else {
      // A file system that strews its inode numbers over 64 bits has used all prefixes up: from
      // here on a hash.
      uint64_t mixed = (inode ^ device * 0x9e3779b97f4a7c15u) * 0xff51afd7ed558ccdu;
      mixed ^= mixed >> 33;
      return kMaxPrefixes << kInodeBits | (mixed & kLower);
    }
    last_key_ = key;
    last_prefix_ = prefix;
  }
  return last_prefix_ << kInodeBits | (inode & kLower);
}

Errno HostFs::Adopt(UniqueFd fd, NodeRef* node) {
  struct stat attributes;
  if (const Errno error = Fstat(fd.get(), &attributes); error != 0) return error;
  NodeRef made(new Node);
  made->fd = std::move(fd);
  made->type = attributes.st_mode & S_IFMT;
  made->device = attributes.st_dev;
  made->inode = attributes.st_ino;
  made->qid.type = S_ISDIR(attributes.st_mode)   ? kQidDirectory
                   : S_ISLNK(attributes.st_mode) ? kQidSymlink
                                                 : 0;
  made->qid.version = kQidVersion;
  made->qid.path = QidPath(attributes.st_dev, attributes.st_ino);
  *node = std::move(made);
  return 0;
}

Errno HostFs::CheckReopen(const Node& directory) {
  UniqueFd fd(openat(proc_self_fd_.get(), ProcName(directory.fd.get()).text,
                     O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return errno;
  NodeRef found;
  if (const Errno error = Adopt(std::move(fd), &found); error != 0) return error;
  return found->device == directory.device && found->inode == directory.inode ? 0 : ESTALE;
}

Errno HostFs::Walk(const Node& directory, const EntryName& name, NodeRef* node) {
  if (!S_ISDIR(directory.type)) return ENOTDIR;
  // The name is one component already; openat2 is the second lock on the same door.
  open_how how = {};
  how.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS;
  int fd;
  do {
    fd =
        static_cast<int>(syscall(SYS_openat2, directory.fd.get(), name.c_str(), &how, sizeof(how)));
  } while (fd < 0 && (errno == EAGAIN || errno == EINTR));
  if (fd < 0) return errno;
  return Adopt(UniqueFd(fd), node);
}

Errno HostFs::WalkUp(const NodeRef& directory, const Node& root, NodeRef* node) {
  if (!S_ISDIR(directory->type)) return ENOTDIR;
  const auto is_root = [&root](const Node& candidate) {
    return candidate.device == root.device && candidate.inode == root.inode;
  };
  if (is_root(*directory)) {
    *node = directory;
    return 0;
  }
  NodeRef parent;
  NodeRef current = directory;
  // The directory may have been moved out of the export by somebody else: its parent is given out
  // only if the way on from there leads up to the root.
  for (int depth = 0; depth < kMaxDepth; depth++) {
    UniqueFd fd(openat(current->fd.get(), "..", O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!fd.valid()) return errno;
    NodeRef above;
    if (const Errno error = Adopt(std::move(fd), &above); error != 0) return error;
    if (above->device == current->device && above->inode == current->inode) return EXDEV;
    if (!parent) parent = above;
    if (is_root(*above)) {
      *node = std::move(parent);
      return 0;
    }
    current = std::move(above);
  }
  return EXDEV;
}

Errno HostFs::Open(const Node& node, int flags, UniqueFd* fd) {
  flags |= O_CLOEXEC | O_NOCTTY;
  int opened;
  if (S_ISDIR(node.type)) {
    opened = openat(node.fd.get(), ".", flags | O_DIRECTORY);
  } else if (S_ISREG(node.type)) {
    // The descriptor pins the file, so that what its type was it still is: this cannot open a
    // device.
    const ProcName name(node.fd.get());
    opened = openat(proc_self_fd_.get(), name.text, flags);
    if (opened < 0 && errno == EPERM && (flags & O_NOATIME) != 0) {
      opened = openat(proc_self_fd_.get(), name.text, flags & ~O_NOATIME);
    }
  } else {
    return S_ISLNK(node.type) ? ELOOP : ENXIO;
  }
  if (opened < 0) return errno;
  fd->reset(opened);
  return 0;
}

Errno HostFs::Stat(const Node& node, int io, struct stat* attributes) {
  if (ownership_ == Ownership::kHost) return Fstat(node.fd.get(), attributes);
  Owner owner;
  if (const Errno error = ReadOwner(node, io, &owner, attributes); error != 0) return error;
  attributes->st_uid = owner.uid;
  attributes->st_gid = owner.gid;
  attributes->st_mode = owner.mode;
  attributes->st_rdev = makedev(owner.major, owner.minor);
  return 0;
}

Errno HostFs::ReadOwner(const Node& node, int io, Owner* owner, struct stat* attributes) {
  if (const Errno error = Fstat(node.fd.get(), attributes); error != 0) return error;
  if (S_ISREG(node.type) || S_ISDIR(node.type)) {
    UniqueFd opened;
    if (io < 0 && Open(node, O_RDONLY | O_NONBLOCK, &opened) == 0) io = opened.get();
    if (io >= 0 && ReadOwnerXattr(io, node.type, owner)) return 0;
  }
  // Nobody has said otherwise: the server's own files are root's, all others nobody's.
  owner->uid = attributes->st_uid == server_uid_ ? 0 : kNobody;
  owner->gid = attributes->st_gid == server_gid_ ? 0 : kNobody;
  owner->mode = attributes->st_mode;
  owner->major = major(attributes->st_rdev);
  owner->minor = minor(attributes->st_rdev);
  return 0;
}

Errno HostFs::WriteOwner(const Node& node, int io, const Owner& owner) {
  // user attributes exist on regular files and directories only.
  if (S_ISLNK(node.type)) return 0;
  UniqueFd opened;
  if (io < 0) {
    if (const Errno error = Open(node, O_RDONLY | O_NONBLOCK, &opened); error != 0) return error;
    io = opened.get();
  }
  return WriteOwnerXattr(io, owner);
}

Errno HostFs::SetMode(const Node& node, int io, mode_t mode) {
  mode &= 07777;
  if (S_ISLNK(node.type)) return EOPNOTSUPP;
  if (ownership_ == Ownership::kXattrs) {
    Owner owner;
    struct stat attributes;
    if (const Errno error = ReadOwner(node, io, &owner, &attributes); error != 0) return error;
    owner.mode = (owner.mode & S_IFMT) | mode;
    if (const Errno error = WriteOwner(node, io, owner); error != 0) return error;
    mode = HostMode((attributes.st_mode & S_IFMT) | mode);
  }
  if (io >= 0) return Check(fchmod(io, mode));
  return Check(fchmodat(proc_self_fd_.get(), ProcName(node.fd.get()).text, mode, 0));
}

Errno HostFs::SetOwner(const Node& node, int io, uint32_t uid, uint32_t gid) {
  if (ownership_ == Ownership::kXattrs) {
    Owner owner;
    struct stat attributes;
    if (const Errno error = ReadOwner(node, io, &owner, &attributes); error != 0) return error;
    if (uid != kNoUid) owner.uid = uid;
    if (gid != kNoUid) owner.gid = gid;
    owner.mode &= ~SetIdBits(owner.mode);
    if (uid != kNoUid || gid != kNoUid) return WriteOwner(node, io, owner);
  }
  return Check(fchownat(node.fd.get(), "", uid, gid, AT_EMPTY_PATH));
}

Errno HostFs::SetSize(const Node& node, int writable_io, uint64_t size) {
  if (S_ISDIR(node.type)) return EISDIR;
  if (static_cast<off_t>(size) < 0) return EFBIG;
  UniqueFd opened;
  if (writable_io < 0) {
    if (const Errno error = Open(node, O_WRONLY | O_NONBLOCK, &opened); error != 0) {
      return error == ELOOP || error == ENXIO ? EINVAL : error;
    }
    writable_io = opened.get();
  }
  if (const Errno error = DropSetId(node, writable_io); error != 0) return error;
  return Check(ftruncate(writable_io, static_cast<off_t>(size)));
}

Errno HostFs::DropSetId(const Node& node, int io) {
  struct stat attributes;
  if (const Errno error = Stat(node, io, &attributes); error != 0) return error;
  const mode_t drop = SetIdBits(attributes.st_mode);
  return drop == 0 ? 0 : SetMode(node, io, attributes.st_mode & ~drop);
}

Errno HostFs::SetNewOwner(const Node& node, int io, const NewFile& file) {
  if (ownership_ == Ownership::kXattrs) {
    return WriteOwner(node, io,
                      {file.uid, file.gid, file.mode, major(file.device), minor(file.device)});
  }
  struct stat attributes;
  if (const Errno error = Fstat(node.fd.get(), &attributes); error != 0) return error;
  if (attributes.st_uid != file.uid || attributes.st_gid != file.gid) {
    if (const Errno error = SetOwner(node, io, file.uid, file.gid); error != 0) return error;
  }
  if (S_ISLNK(node.type) || (attributes.st_mode & 07777) == (file.mode & 07777)) return 0;
  return SetMode(node, io, file.mode);
}

Errno HostFs::Make(const Node& directory, const EntryName& name, const NewFile& file,
                   NodeRef* node) {
  const int at = directory.fd.get();
  // Set-id bits come last, when the owner is right; a device node without its owner is nobody's.
  const mode_t mode = ownership_ == Ownership::kHost ? file.mode & 0777 : HostMode(file.mode);
  mode_t type = file.mode & S_IFMT;
  Errno error;
  if (S_ISDIR(type)) {
    error = Check(mkdirat(at, name.c_str(), mode));
  } else if (S_ISLNK(type)) {
    error = Check(symlinkat(file.target, at, name.c_str()));
  } else if (ownership_ == Ownership::kHost) {
    error = Check(mknodat(at, name.c_str(), type | mode, file.device));
  } else {
    type = S_IFREG;  // a placeholder, which its attribute makes a node
    error = Check(mknodat(at, name.c_str(), type | mode, 0));
  }
  if (error != 0) return error;
  NodeRef made;
  error = Walk(directory, name, &made);
  if (error == 0 && made->type != type) return ESTALE;  // somebody else has replaced it meanwhile
  if (error == 0) error = SetNewOwner(*made, -1, file);
  if (error != 0) {
    unlinkat(at, name.c_str(), S_ISDIR(type) ? AT_REMOVEDIR : 0);
    return error;
  }
  *node = std::move(made);
  return 0;
}

Errno HostFs::MakeAndOpen(const Node& directory, const EntryName& name, const NewFile& file,
                          int flags, NodeRef* node) {
  open_how how = {};
  how.flags = static_cast<uint64_t>(flags | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY);
  how.mode = ownership_ == Ownership::kHost ? file.mode & 0777 : HostMode(file.mode);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS;
  int fd;
  do {
    fd =
        static_cast<int>(syscall(SYS_openat2, directory.fd.get(), name.c_str(), &how, sizeof(how)));
  } while (fd < 0 && (errno == EAGAIN || errno == EINTR));
  if (fd < 0) return errno;
  NodeRef made;
  Errno error = Adopt(UniqueFd(fd), &made);
  if (error == 0) error = SetNewOwner(*made, fd, file);
  if (error != 0) {
    unlinkat(directory.fd.get(), name.c_str(), 0);
    return error;
  }
  *node = std::move(made);
  return 0;
}

Errno HostFs::Link(const Node& file, const Node& directory, const EntryName& name) {
  // Through /proc/self/fd: AT_EMPTY_PATH would take CAP_DAC_READ_SEARCH.
  return Check(linkat(proc_self_fd_.get(), ProcName(file.fd.get()).text, directory.fd.get(),
                      name.c_str(), AT_SYMLINK_FOLLOW));
}

Errno HostFs::Verify(const Node& directory, const EntryName& name, const Node& file) {
  struct stat attributes;
  if (fstatat(directory.fd.get(), name.c_str(), &attributes, AT_SYMLINK_NOFOLLOW) < 0) {
    return errno == ENOENT ? ESTALE : errno;
  }
  return attributes.st_dev == file.device && attributes.st_ino == file.inode ? 0 : ESTALE;
}

}  // namespace clearvm::p9
