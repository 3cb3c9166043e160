#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>

#include "native/p9/session.h"

namespace clearvm::p9 {
namespace {

// A directory entry as getdents64(2) gives it.
struct HostEntry {
  uint64_t inode;
  int64_t next;  // the offset of the entry behind it
  uint16_t bytes;
  uint8_t type;
  char name[];
};
constexpr size_t kHostEntryHead = offsetof(HostEntry, name);
constexpr size_t kEntryHead = kQidBytes + 8 + 1 + 2;  // qid, offset, type, length of the name

// What open(2) is told: access mode and the flags that mean something on the host. O_DIRECT is left
// out (the guest's buffers need not be aligned as the host's file system wants it), O_NONBLOCK too
// (it says nothing on files).
int HostFlags(uint32_t flags, const HostFs& fs) {
  int host = static_cast<int>(flags & kOpenAccess);
  if ((flags & kOpenTruncate) != 0) host |= O_TRUNC;
  if ((flags & kOpenAppend) != 0 && !fs.exclusive()) host |= O_APPEND;
  if ((flags & kOpenDsync) != 0) host |= O_DSYNC;
  if ((flags & kOpenSync) == kOpenSync) host |= O_SYNC;
  if ((flags & kOpenNoAtime) != 0) host |= O_NOATIME;
  return host;
}

bool Writes(uint32_t flags) {
  return (flags & kOpenAccess) != O_RDONLY || (flags & kOpenTruncate) != 0;
}

void MarkOpen(Fid* fid, FidKind kind, uint32_t flags) {
  fid->kind = kind;
  fid->readable = (flags & kOpenAccess) != O_WRONLY;
  fid->writable = (flags & kOpenAccess) != O_RDONLY;
  fid->flags = flags;
  fid->directory_position = 0;
}

}  // namespace

Errno Session::OpenNode(const Node& node, uint32_t flags, UniqueFd* io) {
  if ((flags & kOpenAccess) == kOpenAccess) return EINVAL;
  if ((flags & kOpenDirectory) != 0 && !S_ISDIR(node.type)) return ENOTDIR;
  if (S_ISDIR(node.type) && Writes(flags)) return EISDIR;
  if (fs_->read_only() && Writes(flags)) return EROFS;
  if (fs_->ownership() == Ownership::kXattrs) {
    // A regular file may stand for a device, FIFO or socket, which are not for opening.
    struct stat attributes;
    if (const Errno error = fs_->Stat(node, -1, &attributes); error != 0) return error;
    if ((attributes.st_mode & S_IFMT) != node.type) return ENXIO;
  }
  UniqueFd opened;
  if (const Errno error = fs_->Open(node, HostFlags(flags, *fs_), &opened); error != 0)
    return error;
  if ((flags & kOpenTruncate) != 0) {
    if (const Errno error = fs_->DropSetId(node, opened.get()); error != 0) return error;
  }
  if (Writes(flags) && window_ != nullptr) window_->Forget(node);
  *io = std::move(opened);
  return 0;
}

// Overlayfs makes no change to a layer of the image: what is changed is first copied to the upper
// directory, under the same path.
bool Session::InImage(const Node& node) {
  if (!upper_) return true;
  std::string path;
  NodeRef changed;
  if (fs_->FindPath(*root_, node, &path) != 0) return false;
  const Errno error = fs_->OpenPath(*upper_, path, &changed);
  return error == ENOENT || error == ENOTDIR;
}

void Session::ShowInWindow(Fid* fid) {
  // Less is read as fast by a message, and mapping it costs as much.
  constexpr off_t kLeast = 32 * 1024;
  if (!window_used_ || fid->kind != FidKind::kFile || Writes(fid->flags)) return;
  const Node& node = *fid->node;
  fid->window = window_->Find(node);
  struct stat is;
  if (fid->window != 0 || ::fstat(fid->io_fd(), &is) < 0) return;
  if (is.st_size < kLeast || !InImage(node)) return;
  fid->window = window_->Show(node, fid->io_fd(), static_cast<uint64_t>(is.st_size));
}

Errno Session::Reopen(Fid* fid, FidKind kind, uint32_t flags) {
  // What these ask for was done when it was opened first.
  const uint32_t again = flags & ~(kOpenTruncate | kOpenExclusive);
  if ((kind == FidKind::kDirectory) != S_ISDIR(fid->node->type)) return EINVAL;
  if (const Errno error = OpenNode(*fid->node, again, &fid->io); error != 0) return error;
  MarkOpen(fid, kind, again);
  // The host's offset is that of another descriptor.
  fid->directory_position = ~uint64_t{0};
  return 0;
}

Errno Session::Open(Call& call) {
  const uint32_t number = call.in.U32();
  const uint32_t flags = call.in.U32();
  if (!call.in.Complete()) return EPROTO;
  Fid* fid;
  if (const Errno error = Find(number, &fid); error != 0) return error;
  if (fid->kind != FidKind::kPath) return EBADF;
  if (const Errno error = OpenNode(*fid->node, flags, &fid->io); error != 0) return error;
  MarkOpen(fid, S_ISDIR(fid->node->type) ? FidKind::kDirectory : FidKind::kFile, flags);
  ShowInWindow(fid);
  call.out.PutQid(fid->node->qid);
  call.out.U32(fid->window);  // iounit, or what stands for it; 0: as much as a message holds
  return 0;
}

Errno Session::Create(Call& call) {
  const uint32_t number = call.in.U32();
  const std::string_view name = call.in.String();
  const uint32_t flags = call.in.U32();
  const uint32_t mode = call.in.U32();
  const uint32_t gid = call.in.U32();
  if (!call.in.Complete()) return EPROTO;
  Fid* fid;
  if (const Errno error = FindToChange(number, &fid); error != 0) return error;
  if (fid->kind != FidKind::kPath) return EBADF;
  if ((flags & kOpenAccess) == kOpenAccess || (flags & kOpenDirectory) != 0) return EINVAL;
  EntryName entry;
  if (const Errno error = entry.Set(name); error != 0) return error;

  NodeRef node;
  UniqueFd io;
  const NewFile file{.mode = S_IFREG | (mode & 07777), .uid = fid->uid, .gid = gid};
  Errno error = fs_->MakeAndOpen(*fid->node, entry, file, HostFlags(flags, *fs_), &node);
  if (error == EEXIST && (flags & kOpenExclusive) == 0) {
    error = fs_->Walk(*fid->node, entry, &node);
    if (error == 0) error = OpenNode(*node, flags, &io);
  }
  if (error != 0) return error;
  fid->parent = std::move(fid->node);
  fid->node = std::move(node);
  fid->name.assign(name);
  fid->io = std::move(io);
  MarkOpen(fid, S_ISDIR(fid->node->type) ? FidKind::kDirectory : FidKind::kFile, flags);
  call.out.PutQid(fid->node->qid);
  call.out.U32(0);
  return 0;
}

Errno Session::Read(Call& call) {
  const uint32_t number = call.in.U32();
  const uint64_t offset = call.in.U64();
  const uint32_t count = call.in.U32();
  if (!call.in.Complete()) return EPROTO;
  Fid* fid;
  if (const Errno error = Find(number, &fid); error != 0) return error;
  if (call.reply_bytes < kReadHeader) return EMSGSIZE;
  if (fid->kind == FidKind::kXattrRead) return ReadXattr(call, *fid, offset, count);
  if (fid->kind == FidKind::kDirectory) return EISDIR;
  if (fid->kind != FidKind::kFile || !fid->readable) return EBADF;
  if (static_cast<off_t>(offset) < 0) return EINVAL;

  iovec parts[IOV_MAX];
  const size_t used =
      Slice(call.reply, kReadHeader, std::min<size_t>(count, call.BulkRoom()), parts);
  ssize_t size;
  do {
    size = preadv(fid->io_fd(), parts, static_cast<int>(used), static_cast<off_t>(offset));
  } while (size < 0 && errno == EINTR);
  if (size < 0) return errno;
  call.out.U32(static_cast<uint32_t>(size));
  call.bulk = static_cast<size_t>(size);
  return 0;
}

Errno Session::Write(Call& call) {
  const uint32_t number = call.in.U32();
  const uint64_t offset = call.in.U64();
  const uint32_t count = call.in.U32();
  if (!call.in.Complete() || call.message_bytes - kWriteHeader != count) return EPROTO;
  Fid* fid;
  if (const Errno error = Find(number, &fid); error != 0) return error;
  if (fid->kind == FidKind::kXattrWrite) return WriteXattr(call, fid, offset, count);
  if (fid->kind != FidKind::kFile || !fid->writable) return EBADF;
  if (static_cast<off_t>(offset) < 0) return EINVAL;
  if (count != 0) {
    if (const Errno error = fs_->DropSetId(*fid->node, fid->io_fd()); error != 0) return error;
  }
  iovec parts[IOV_MAX];
  const size_t used = Slice(call.request, kWriteHeader, count, parts);
  ssize_t size;
  do {
    size = pwritev(fid->io_fd(), parts, static_cast<int>(used), static_cast<off_t>(offset));
  } while (size < 0 && errno == EINTR);
  if (size < 0) return errno;
  call.out.U32(static_cast<uint32_t>(size));
  return 0;
}

Errno Session::ReadDirectory(Call& call) {
  const uint32_t number = call.in.U32();
  const uint64_t offset = call.in.U64();
  const uint32_t count = call.in.U32();
  if (!call.in.Complete()) return EPROTO;
  Fid* fid;
  if (const Errno error = Find(number, &fid); error != 0) return error;
  if (fid->kind != FidKind::kDirectory) return fid->kind == FidKind::kFile ? ENOTDIR : EBADF;
  if (call.reply_bytes < kReadHeader) return EMSGSIZE;

  const size_t room = std::min<size_t>({count, call.BulkRoom(), kDirentBytes});
  if (dirents_ == nullptr) dirents_ = std::make_unique_for_overwrite<uint8_t[]>(2 * kDirentBytes);
  uint8_t* const host = dirents_.get();
  Encoder entries({host + kDirentBytes, room});
  // 9P's entries are up to 7/6 of the host's in size: asking for less means that all of them fit.
  // One name of 255 bytes must always be asked for; what does not fit then is read again by the
  // next request.
  const size_t ask = std::max<size_t>(room / 7 * 6, kHostEntryHead + kMaxName + 1 + 8);
  const int fd = fid->io_fd();
  if (offset != fid->directory_position && lseek(fd, static_cast<off_t>(offset), SEEK_SET) < 0) {
    return errno;
  }
  const long got = syscall(SYS_getdents64, fd, host, std::min(ask, kDirentBytes));
  if (got < 0) return errno == EINVAL ? EMSGSIZE : errno;
  uint64_t position = offset;
  for (long at = 0; at < got;) {
    const HostEntry* const entry = reinterpret_cast<const HostEntry*>(host + at);
    const std::string_view name(entry->name);
    if (entries.room() < kEntryHead + name.size()) break;
    Qid qid = fid->node->qid;
    if (name == "..") {
      // At the root it is the root; what lies above is none of the guest's business.
      if (fid->node->inode != root_->inode || fid->node->device != root_->device) {
        qid.path = fs_->QidPath(fid->node->device, entry->inode);
      }
    } else if (name != ".") {
      qid.type = entry->type == DT_DIR ? kQidDirectory : entry->type == DT_LNK ? kQidSymlink : 0;
      qid.path = fs_->QidPath(fid->node->device, entry->inode);
    }
    entries.PutQid(qid);
    entries.U64(static_cast<uint64_t>(entry->next));
    // A placeholder's true type is in its attribute: the guest asks for it when it needs it.
    const bool certain = fs_->ownership() == Ownership::kHost || entry->type != DT_REG;
    entries.U8(certain ? entry->type : static_cast<uint8_t>(DT_UNKNOWN));
    entries.String(name);
    position = static_cast<uint64_t>(entry->next);
    at += entry->bytes;
  }
  if (got > 0 && entries.size() == 0) {
    fid->directory_position = ~uint64_t{0};
    return EMSGSIZE;
  }
  // Where some did not fit, the descriptor is ahead of `position`: the next request has to seek.
  const HostEntry* last = nullptr;
  for (long at = 0; at < got; at += last->bytes) {
    last = reinterpret_cast<const HostEntry*>(host + at);
  }
  fid->directory_position =
      last == nullptr || static_cast<uint64_t>(last->next) == position ? position : ~uint64_t{0};

  CopyTo(call.reply, kReadHeader, entries.data(), entries.size());
  call.out.U32(static_cast<uint32_t>(entries.size()));
  call.bulk = entries.size();
  return 0;
}

Errno Session::Sync(Call& call) {
  const uint32_t number = call.in.U32();
  const uint32_t data_only = call.in.U32();
  if (!call.in.Complete()) return EPROTO;
  Fid* fid;
  if (const Errno error = Find(number, &fid); error != 0) return error;
  UniqueFd opened;
  int fd = fid->io_fd();
  if (fid->kind == FidKind::kPath) {
    if (const Errno error = fs_->Open(*fid->node, O_RDONLY | O_NONBLOCK, &opened); error != 0) {
      return error;
    }
    fd = opened.get();
  } else if (fid->xattr != nullptr) {
    return EBADF;
  }
  return (data_only != 0 ? fdatasync(fd) : fsync(fd)) < 0 ? errno : 0;
}

Errno Session::Lock(Call& call) {
  const uint32_t number = call.in.U32();
  const uint8_t type = call.in.U8();
  call.in.U32();  // flags: whether the client waits; it does so by asking again
  const uint64_t start = call.in.U64();
  const uint64_t length = call.in.U64();
  call.in.U32();     // process
  call.in.String();  // client
  if (!call.in.Complete()) return EPROTO;
  Fid* fid;
  if (const Errno error = Find(number, &fid); error != 0) return error;
  if (fid->kind != FidKind::kFile && fid->kind != FidKind::kDirectory) return EBADF;
  if (type > kLockUnlock || start >= kLockToEnd || length > kLockToEnd - start) return EINVAL;
  const LockRange range{start, length == 0 ? kLockToEnd : start + length};
  fid->locked = fid->locked || type != kLockUnlock;
  call.out.U8(locks_.Set(*fid, static_cast<LockType>(type), range));
  return 0;
}

Errno Session::GetLock(Call& call) {
  const uint32_t number = call.in.U32();
  const uint8_t wanted = call.in.U8();
  const uint64_t start = call.in.U64();
  const uint64_t length = call.in.U64();
  uint32_t process = call.in.U32();
  const std::string_view client = call.in.String();
  if (!call.in.Complete()) return EPROTO;
  Fid* fid;
  if (const Errno error = Find(number, &fid); error != 0) return error;
  if (fid->kind != FidKind::kFile && fid->kind != FidKind::kDirectory) return EBADF;
  if (wanted > kLockUnlock || start >= kLockToEnd || length > kLockToEnd - start) return EINVAL;
  // v9fs always sends kLockUnlock here. Taken for a read lock, it finds no conflict where there is
  // none.
  LockType type = wanted == kLockWrite ? kLockWrite : kLockRead;
  LockRange range{start, length == 0 ? kLockToEnd : start + length};
  if (!locks_.Test(*fid, &type, &range, &process)) type = kLockUnlock;
  call.out.U8(type);
  call.out.U64(range.start);
  call.out.U64(range.end == kLockToEnd ? 0 : range.end - range.start);
  call.out.U32(process);
  call.out.String(client);
  return 0;
}

}  // namespace clearvm::p9
