#include <fcntl.h>
#include <sys/xattr.h>

#include <algorithm>
#include <cerrno>

#include "native/p9/ownership.h"
#include "native/p9/session.h"

namespace clearvm::p9 {
namespace {

// The attributes that a guest may see and set. Ours stay ours, overlayfs's would redirect its
// lookups, and all other security attributes mean something to the host only.
bool Permitted(std::string_view name, Ownership ownership) {
  if (name.starts_with(kOwnerXattrPrefix) || name.starts_with("trusted.overlay.")) return false;
  if (name.starts_with("user.")) return name.size() > 5;
  // An unprivileged server could set ACLs, which would mean the host's users, who own nothing
  // there.
  if (ownership == Ownership::kXattrs) return false;
  return (name.starts_with("trusted.") && name.size() > 8) || name == "security.capability" ||
         name == "system.posix_acl_access" || name == "system.posix_acl_default";
}

Errno CheckXattrName(std::string_view name, Ownership ownership) {
  if (name.size() > XATTR_NAME_MAX) return ERANGE;
  if (name.find('\0') != name.npos) return EINVAL;
  return Permitted(name, ownership) ? 0 : EOPNOTSUPP;
}

}  // namespace

Errno Session::LoadXattr(const Fid& fid, const std::string& name, XattrTransfer* transfer) {
  const bool list = name.empty();
  if (!S_ISREG(fid.node->type) && !S_ISDIR(fid.node->type)) {
    // Symbolic links and special files are never opened, and have no attributes that a guest could
    // use.
    return list ? 0 : EOPNOTSUPP;
  }
  UniqueFd opened;
  int fd = fid.io_fd();
  if (fid.kind == FidKind::kPath) {
    const Errno error = fs_->Open(*fid.node, O_RDONLY | O_NONBLOCK, &opened);
    if (error != 0) return error;
    fd = opened.get();
  }
  // Most are small, or not there at all: the large buffer is for the others.
  uint8_t small[256];
  const auto get = [&](void* to, size_t size) {
    return list ? flistxattr(fd, static_cast<char*>(to), size)
                : fgetxattr(fd, name.c_str(), to, size);
  };
  ssize_t size = get(small, sizeof(small));
  if (size >= 0) {
    transfer->value.assign(small, small + size);
  } else if (errno == ERANGE) {
    transfer->value.resize(kMaxXattrValue);
    size = get(transfer->value.data(), kMaxXattrValue);
    if (size < 0) return errno;
    transfer->value.resize(static_cast<size_t>(size));
    transfer->value.shrink_to_fit();
  } else {
    return errno;
  }
  if (list) {
    std::vector<uint8_t> visible;
    for (auto start = transfer->value.begin(); start != transfer->value.end();) {
      const auto end = std::find(start, transfer->value.end(), '\0');
      if (end == transfer->value.end()) break;
      const std::string_view entry(reinterpret_cast<const char*>(&*start),
                                   static_cast<size_t>(end - start));
      if (Permitted(entry, fs_->ownership())) visible.insert(visible.end(), start, end + 1);
      start = end + 1;
    }
    transfer->value = std::move(visible);
  }
  return 0;
}

Errno Session::XattrWalk(Call& call) {
  const uint32_t number = call.in.U32();
  const uint32_t new_number = call.in.U32();
  const std::string_view name = call.in.String();
  if (!call.in.Complete()) return EPROTO;
  Fid* fid;
  if (const Errno error = Find(number, &fid); error != 0) return error;
  if (fid->xattr != nullptr || new_number == kNoFid || fids_.Find(new_number) != nullptr) {
    return EBADF;
  }
  if (!name.empty()) {
    if (const Errno error = CheckXattrName(name, fs_->ownership()); error != 0) return error;
  }
  if (fids_.full()) return ENFILE;
  auto transfer = std::make_unique<XattrTransfer>();
  if (const Errno error = LoadXattr(*fid, std::string(name), transfer.get()); error != 0) {
    return error;
  }
  transfer->size = transfer->value.size();
  if (transfer->size > kMaxXattrBytes - xattr_bytes_) return ENOSPC;
  xattr_bytes_ += transfer->size;
  Fid* const result = fids_.Insert(new_number);
  result->uid = fid->uid;
  result->kind = FidKind::kXattrRead;
  result->node = fid->node;
  result->parent = fid->parent;
  result->xattr = std::move(transfer);
  call.out.U64(result->xattr->size);
  return 0;
}

Errno Session::XattrCreate(Call& call) {
  const uint32_t number = call.in.U32();
  const std::string_view name = call.in.String();
  const uint64_t size = call.in.U64();
  const uint32_t flags = call.in.U32();
  if (!call.in.Complete()) return EPROTO;
  Fid* fid;
  if (const Errno error = Find(number, &fid); error != 0) return error;
  if (fs_->read_only()) return EROFS;
  if (fid->kind != FidKind::kPath) return EBADF;
  if (const Errno error = CheckXattrName(name, fs_->ownership()); error != 0) return error;
  if ((flags & ~uint32_t{XATTR_CREATE | XATTR_REPLACE}) != 0) return EINVAL;
  if (!S_ISREG(fid->node->type) && !S_ISDIR(fid->node->type)) return EOPNOTSUPP;
  if (size > kMaxXattrValue) return E2BIG;
  if (size > kMaxXattrBytes - xattr_bytes_) return ENOSPC;
  xattr_bytes_ += size;
  fid->kind = FidKind::kXattrWrite;
  fid->xattr = std::make_unique<XattrTransfer>();
  fid->xattr->name.assign(name);
  fid->xattr->size = size;
  fid->xattr->flags = flags;
  return 0;
}

Errno Session::ReadXattr(Call& call, const Fid& fid, uint64_t offset, uint32_t count) {
  const std::vector<uint8_t>& value = fid.xattr->value;
  size_t size = 0;
  if (offset < value.size()) {
    size = std::min<size_t>({count, value.size() - offset, call.BulkRoom()});
    CopyTo(call.reply, kReadHeader, value.data() + offset, size);
  }
  call.out.U32(static_cast<uint32_t>(size));
  call.bulk = size;
  return 0;
}

Errno Session::WriteXattr(Call& call, Fid* fid, uint64_t offset, uint32_t count) {
  XattrTransfer& transfer = *fid->xattr;
  // In order and without gaps, as v9fs writes it.
  if (offset != transfer.value.size()) return EINVAL;
  if (count > transfer.size - offset) return ENOSPC;
  transfer.value.resize(offset + count);
  CopyFrom(call.request, kWriteHeader, transfer.value.data() + offset, count);
  call.out.U32(count);
  return 0;
}

Errno Session::CommitXattr(const Fid& fid) {
  const XattrTransfer& transfer = *fid.xattr;
  if (transfer.value.size() != transfer.size) return EIO;  // not all of it has been written
  UniqueFd fd;
  const Errno error = fs_->Open(*fid.node, O_RDONLY | O_NONBLOCK, &fd);
  if (error != 0) return error;
  // removexattr(2) arrives as an empty value with XATTR_REPLACE; an empty value to set comes
  // without.
  const bool remove = transfer.size == 0 && transfer.flags == XATTR_REPLACE;
  const int result = remove ? fremovexattr(fd.get(), transfer.name.c_str())
                            : fsetxattr(fd.get(), transfer.name.c_str(), transfer.value.data(),
                                        transfer.size, static_cast<int>(transfer.flags));
  return result < 0 ? errno : 0;
}

}  // namespace clearvm::p9
