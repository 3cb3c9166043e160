#include <fcntl.h>
#include <linux/limits.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>

#include "native/p9/session.h"

namespace clearvm::p9 {
namespace {

// What statfs(2) says of a 9p mount (V9FS_MAGIC): programs that look are to know that inotify sees
// no changes of other machines here.
constexpr uint32_t kFsType = 0x01021997;
constexpr uint64_t kNanoseconds = 1000000000;

// The kernel's 32-bit encoding of a device number (new_encode_dev), which v9fs decodes.
uint64_t WireDevice(dev_t device) {
  const uint64_t low = minor(device);
  return (low & 0xff) | uint64_t{major(device)} << 8 | (low & ~uint64_t{0xff}) << 12;
}

void PutTime(Encoder* out, const struct timespec& time) {
  out->U64(static_cast<uint64_t>(time.tv_sec));
  out->U64(static_cast<uint64_t>(time.tv_nsec));
}

}  // namespace

Errno Session::GetAttributes(Call& call) {
  const uint32_t number = call.in.U32();
  const uint64_t wanted = call.in.U64();
  if (!call.in.Complete()) return EPROTO;
  Fid* fid;
  if (const Errno error = Find(number, &fid); error != 0) return error;

  struct stat attributes;
  const int io = fid->kind == FidKind::kPath ? -1 : fid->io_fd();
  if (const Errno error = fs_->Stat(*fid->node, io, &attributes); error != 0) return error;
  struct timespec birth = {};
  uint64_t valid = kStatBasic | (wanted & kStatDataVersion);
  if ((wanted & kStatBtime) != 0) {
    struct statx extended;
    if (statx(fid->node->fd.get(), "", AT_EMPTY_PATH, STATX_BTIME, &extended) == 0 &&
        (extended.stx_mask & STATX_BTIME) != 0) {
      birth = {extended.stx_btime.tv_sec, extended.stx_btime.tv_nsec};
      valid |= kStatBtime;
    }
  }
  Encoder& out = call.out;
  out.U64(valid);
  out.PutQid(fid->node->qid);
  out.U32(attributes.st_mode);
  out.U32(attributes.st_uid);
  out.U32(attributes.st_gid);
  out.U64(attributes.st_nlink);
  out.U64(WireDevice(attributes.st_rdev));
  out.U64(static_cast<uint64_t>(attributes.st_size));
  out.U64(static_cast<uint64_t>(attributes.st_blksize));
  out.U64(static_cast<uint64_t>(attributes.st_blocks));
  PutTime(&out, attributes.st_atim);
  PutTime(&out, attributes.st_mtim);
  PutTime(&out, attributes.st_ctim);
  PutTime(&out, birth);
  out.U64(0);  // gen: the same for all, see kQidVersion
  out.U64(static_cast<uint64_t>(attributes.st_ctim.tv_sec) * kNanoseconds +
          static_cast<uint64_t>(attributes.st_ctim.tv_nsec));  // data_version
  return 0;
}

Errno Session::SetAttributes(Call& call) {
  const uint32_t number = call.in.U32();
  const uint32_t valid = call.in.U32();
  const uint32_t mode = call.in.U32();
  const uint32_t uid = call.in.U32();
  const uint32_t gid = call.in.U32();
  const uint64_t size = call.in.U64();
  const uint64_t atime_seconds = call.in.U64();
  const uint64_t atime_nanoseconds = call.in.U64();
  const uint64_t mtime_seconds = call.in.U64();
  const uint64_t mtime_nanoseconds = call.in.U64();
  if (!call.in.Complete()) return EPROTO;
  Fid* fid;
  if (const Errno error = Find(number, &fid); error != 0) return error;
  if (fs_->read_only()) return EROFS;
  if (fid->xattr != nullptr) return EBADF;

  struct timespec times[2] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}};
  const auto choose_time = [valid](uint32_t change, uint32_t given, uint64_t seconds,
                                   uint64_t nanoseconds, struct timespec* time) -> Errno {
    if ((valid & change) == 0) return 0;
    if ((valid & given) == 0) {
      time->tv_nsec = UTIME_NOW;
      return 0;
    }
    if (nanoseconds >= kNanoseconds) return EINVAL;  // UTIME_NOW and UTIME_OMIT among them
    *time = {static_cast<time_t>(seconds), static_cast<long>(nanoseconds)};
    return 0;
  };
  Errno error = choose_time(kSetAtime, kSetAtimeSet, atime_seconds, atime_nanoseconds, &times[0]);
  if (error != 0) return error;
  error = choose_time(kSetMtime, kSetMtimeSet, mtime_seconds, mtime_nanoseconds, &times[1]);
  if (error != 0) return error;

  // In this order, because each step touches what later ones set: a new size the set-id bits and
  // the times, a new owner the set-id bits.
  const Node& node = *fid->node;
  const int io = fid->kind == FidKind::kPath ? -1 : fid->io_fd();
  if ((valid & kSetSize) != 0) {
    if (window_ != nullptr) window_->Forget(node);
    error = fs_->SetSize(node, fid->kind == FidKind::kFile && fid->writable ? io : -1, size);
    if (error != 0) return error;
  }
  if ((valid & (kSetUid | kSetGid)) != 0) {
    error = fs_->SetOwner(node, io, (valid & kSetUid) != 0 ? uid : kNoUid,
                          (valid & kSetGid) != 0 ? gid : kNoUid);
    if (error != 0) return error;
  }
  if ((valid & kSetMode) != 0) {
    error = fs_->SetMode(node, io, mode);
    if (error != 0) return error;
  }
  if ((valid & (kSetAtime | kSetMtime)) != 0) {
    if (utimensat(node.fd.get(), "", times, AT_EMPTY_PATH) < 0) return errno;
  } else if (valid == kSetCtime) {
    return fs_->SetOwner(node, io, kNoUid, kNoUid);
  }
  return 0;
}

Errno Session::StatFs(Call& call) {
  const uint32_t number = call.in.U32();
  if (!call.in.Complete()) return EPROTO;
  Fid* fid;
  if (const Errno error = Find(number, &fid); error != 0) return error;
  struct statfs status;
  if (fstatfs(fid->node->fd.get(), &status) < 0) return errno;
  call.out.U32(kFsType);
  call.out.U32(static_cast<uint32_t>(status.f_bsize));
  call.out.U64(status.f_blocks);
  call.out.U64(status.f_bfree);
  call.out.U64(status.f_bavail);
  call.out.U64(status.f_files);
  call.out.U64(status.f_ffree);
  uint64_t id;
  static_assert(sizeof(id) == sizeof(status.f_fsid));
  std::memcpy(&id, &status.f_fsid, sizeof(id));
  call.out.U64(id);
  call.out.U32(static_cast<uint32_t>(status.f_namelen));
  return 0;
}

Errno Session::ReadLink(Call& call) {
  const uint32_t number = call.in.U32();
  if (!call.in.Complete()) return EPROTO;
  Fid* fid;
  if (const Errno error = Find(number, &fid); error != 0) return error;
  if (!S_ISLNK(fid->node->type)) return EINVAL;
  char target[PATH_MAX];
  const ssize_t size = readlinkat(fid->node->fd.get(), "", target, sizeof(target));
  if (size < 0) return errno;
  call.out.String({target, static_cast<size_t>(size)});
  return 0;
}

}  // namespace clearvm::p9
