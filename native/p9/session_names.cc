#include <fcntl.h>
#include <linux/limits.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "native/p9/session.h"

namespace clearvm::p9 {

Errno Session::Make(Call& call, uint32_t number, std::string_view name, NewFile file) {
  Fid* directory;
  if (const Errno error = FindToChange(number, &directory); error != 0) return error;
  EntryName entry;
  if (const Errno error = entry.Set(name); error != 0) return error;
  file.uid = directory->uid;
  NodeRef made;
  const Errno error = fs_->Make(*directory->node, entry, file, &made);
  if (error == 0) call.out.PutQid(made->qid);
  return error;
}

Errno Session::MakeDirectory(Call& call) {
  const uint32_t number = call.in.U32();
  const std::string_view name = call.in.String();
  const uint32_t mode = call.in.U32();
  const uint32_t gid = call.in.U32();
  if (!call.in.Complete()) return EPROTO;
  return Make(call, number, name, {.mode = S_IFDIR | (mode & 07777), .uid = 0, .gid = gid});
}

Errno Session::MakeNode(Call& call) {
  const uint32_t number = call.in.U32();
  const std::string_view name = call.in.String();
  const uint32_t mode = call.in.U32();
  const uint32_t major_number = call.in.U32();
  const uint32_t minor_number = call.in.U32();
  const uint32_t gid = call.in.U32();
  if (!call.in.Complete()) return EPROTO;
  mode_t type = mode & S_IFMT;
  if (type == 0) type = S_IFREG;  // as mknod(2) takes it
  const bool device = S_ISCHR(type) || S_ISBLK(type);
  if (!device && !S_ISREG(type) && !S_ISFIFO(type) && !S_ISSOCK(type)) return EINVAL;
  // The kernel's device numbers have 12 and 20 bits.
  if (major_number >= 1u << 12 || minor_number >= 1u << 20) return EINVAL;
  return Make(call, number, name,
              {.mode = type | (mode & 07777),
               .uid = 0,
               .gid = gid,
               .device = device ? makedev(major_number, minor_number) : 0});
}

Errno Session::MakeSymlink(Call& call) {
  const uint32_t number = call.in.U32();
  const std::string_view name = call.in.String();
  const std::string_view target = call.in.String();
  const uint32_t gid = call.in.U32();
  if (!call.in.Complete()) return EPROTO;
  if (target.size() >= PATH_MAX) return ENAMETOOLONG;
  if (target.find('\0') != target.npos) return EINVAL;
  // Any target will do: only the guest ever follows it.
  const std::string text(target);
  return Make(call, number, name,
              {.mode = S_IFLNK | 0777, .uid = 0, .gid = gid, .target = text.c_str()});
}

Errno Session::MakeLink(Call& call) {
  const uint32_t number = call.in.U32();
  const uint32_t target = call.in.U32();
  const std::string_view name = call.in.String();
  if (!call.in.Complete()) return EPROTO;
  Fid* directory;
  if (const Errno error = FindToChange(number, &directory); error != 0) return error;
  Fid* file;
  if (const Errno error = Find(target, &file); error != 0) return error;
  EntryName entry;
  if (const Errno error = entry.Set(name); error != 0) return error;
  if (S_ISDIR(file->node->type)) return EPERM;
  const Errno error = fs_->Link(*file->node, *directory->node, entry);
  if (error == 0) RememberLink(*file->node, *directory->node, std::string(name));
  return error;
}

Errno Session::Rename(Call& call) {
  const uint32_t number = call.in.U32();
  const uint32_t target = call.in.U32();
  const std::string_view name = call.in.String();
  if (!call.in.Complete()) return EPROTO;
  Fid* fid;
  if (const Errno error = Find(number, &fid); error != 0) return error;
  Fid* directory;
  if (const Errno error = FindToChange(target, &directory); error != 0) return error;
  EntryName from;
  if (const Errno error = from.Set(fid->name); error != 0) return error;
  EntryName to;
  if (const Errno error = to.Set(name); error != 0) return error;
  if (const Errno error = fs_->Verify(*fid->parent, from, *fid->node); error != 0) return error;
  if (renameat(fid->parent->fd.get(), from.c_str(), directory->node->fd.get(), to.c_str()) < 0) {
    return errno;
  }
  fid->parent = directory->node;
  fid->name.assign(name);
  return 0;
}

Errno Session::RenameAt(Call& call) {
  const uint32_t number = call.in.U32();
  const std::string_view name = call.in.String();
  const uint32_t target = call.in.U32();
  const std::string_view new_name = call.in.String();
  if (!call.in.Complete()) return EPROTO;
  Fid* directory;
  if (const Errno error = FindToChange(number, &directory); error != 0) return error;
  Fid* new_directory;
  if (const Errno error = FindToChange(target, &new_directory); error != 0) return error;
  EntryName from;
  if (const Errno error = from.Set(name); error != 0) return error;
  EntryName to;
  if (const Errno error = to.Set(new_name); error != 0) return error;
  return renameat(directory->node->fd.get(), from.c_str(), new_directory->node->fd.get(),
                  to.c_str()) < 0
             ? errno
             : 0;
}

Errno Session::UnlinkAt(Call& call) {
  const uint32_t number = call.in.U32();
  const std::string_view name = call.in.String();
  const uint32_t flags = call.in.U32();
  if (!call.in.Complete()) return EPROTO;
  Fid* directory;
  if (const Errno error = FindToChange(number, &directory); error != 0) return error;
  EntryName entry;
  if (const Errno error = entry.Set(name); error != 0) return error;
  if ((flags & ~kUnlinkRemoveDir) != 0) return EINVAL;
  return unlinkat(directory->node->fd.get(), entry.c_str(),
                  (flags & kUnlinkRemoveDir) != 0 ? AT_REMOVEDIR : 0) < 0
             ? errno
             : 0;
}

Errno Session::Remove(Call& call) {
  const uint32_t number = call.in.U32();
  if (!call.in.Complete()) return EPROTO;
  Fid* fid;
  if (const Errno error = Find(number, &fid); error != 0) return error;
  const Errno error = RemoveFile(fid);
  Forget(fid);  // Tremove clunks the fid even where it fails
  return error;
}

Errno Session::RemoveFile(Fid* fid) {
  if (fs_->read_only()) return EROFS;
  EntryName entry;
  if (const Errno error = entry.Set(fid->name); error != 0) return EBUSY;  // the root
  if (const Errno error = fs_->Verify(*fid->parent, entry, *fid->node); error != 0) return error;
  return unlinkat(fid->parent->fd.get(), entry.c_str(),
                  S_ISDIR(fid->node->type) ? AT_REMOVEDIR : 0) < 0
             ? errno
             : 0;
}

}  // namespace clearvm::p9
