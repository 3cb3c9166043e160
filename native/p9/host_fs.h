// The exported directory on the host: every system call that reaches a file is behind this
// interface. It takes single names and descriptors, never a path, so that nothing outside the
// export can be named.
#ifndef CLEARVM_P9_HOST_FS_H_
#define CLEARVM_P9_HOST_FS_H_

#include <sys/stat.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "native/p9/fids.h"
#include "native/p9/ownership.h"
#include "native/p9/server.h"

namespace clearvm::p9 {

// 0, or the errno that goes to the client: the protocol's own currency of errors.
using Errno = int;

// A name of one directory entry, checked and NUL-terminated.
class EntryName {
 public:
  // EINVAL: empty, "." or "..", or holding '/' or NUL; ENAMETOOLONG: over 255 bytes.
  Errno Set(std::string_view name);
  const char* c_str() const { return text_; }

 private:
  char text_[kMaxName + 1];
};

// What a new file is to be.
struct NewFile {
  mode_t mode;  // type and permission bits, set-id bits included
  uint32_t uid;
  uint32_t gid;
  dev_t device = 0;         // of a character or block device
  const char* target = "";  // of a symbolic link
};

class HostFs {
 public:
  // `proc_self_fd`: an O_PATH descriptor of this process's /proc/self/fd.
  HostFs(UniqueFd proc_self_fd, Ownership ownership, bool read_only, bool exclusive);

  // Whether Open works on this directory by way of /proc/self/fd, which it needs for files. ESTALE:
  // that is not ours.
  Errno CheckReopen(const Node& directory);

  // A node of a descriptor that has just been opened. Errors: fstat(2)'s.
  Errno Adopt(UniqueFd fd, NodeRef* node);

  // The file called `name` in `directory`; a symbolic link is not followed.
  Errno Walk(const Node& directory, const EntryName& name, NodeRef* node);

  // The directory that holds `directory`, which stays `root` at the root. EXDEV: it lies outside of
  // the root.
  Errno WalkUp(const NodeRef& directory, const Node& root, NodeRef* node);

  // Opens for I/O what the node names. Only regular files and directories are ever opened: ELOOP
  // for symbolic links, ENXIO for everything else. `flags`: open(2)'s without O_CREAT, O_EXCL and
  // O_NOFOLLOW.
  Errno Open(const Node& node, int flags, UniqueFd* fd);

  // The attributes as the guest is to see them. `io`: a descriptor of the same file that is open
  // for I/O, or -1.
  Errno Stat(const Node& node, int io, struct stat* attributes);

  // Makes a directory, node or symbolic link, owned as said and with exactly that mode.
  Errno Make(const Node& directory, const EntryName& name, const NewFile& file, NodeRef* node);

  // Makes and opens a regular file that must not exist yet (EEXIST). The node's descriptor is the
  // one for I/O.
  Errno MakeAndOpen(const Node& directory, const EntryName& name, const NewFile& file, int flags,
                    NodeRef* node);

  Errno SetMode(const Node& node, int io, mode_t mode);
  // `uid`, `gid`: -1 leaves it, but sets the change time.
  Errno SetOwner(const Node& node, int io, uint32_t uid, uint32_t gid);
  Errno SetSize(const Node& node, int writable_io, uint64_t size);

  // Clears the set-id bits that a write by somebody without CAP_FSETID would clear. `io`: open for
  // I/O.
  Errno DropSetId(const Node& node, int io);

  Errno Link(const Node& file, const Node& directory, const EntryName& name);

  // 0 where `name` in `directory` is still that file, else ESTALE.
  Errno Verify(const Node& directory, const EntryName& name, const Node& file);

  uint64_t QidPath(dev_t device, ino_t inode);

  // For a session that goes on where another one has stopped, over other files: what that one's
  // client knows by a qid keeps it, and no other file ever gets one that it may know. Forget comes
  // first: no prefix below `used` is given out after it.
  uint32_t used_prefixes() const;
  void ForgetQids(uint32_t used);
  void KeepQid(const Node& node, uint64_t path) { kept_[{node.device, node.inode}] = path; }

  // Where the node lies below `root`, without a slash before it; "" for the root itself. ENOENT: no
  // name leads there (any more); ENAMETOOLONG.
  Errno FindPath(const Node& root, const Node& node, std::string* path);
  // What lies at such a path; no symbolic link is followed.
  Errno OpenPath(const Node& root, const std::string& path, NodeRef* node);
  // Makes a file like `file` that has no name. For a regular one, `io` is open for writing.
  Errno MakeNameless(const Node& root, const NewFile& file, NodeRef* node, UniqueFd* io);
  Errno ReadTarget(const Node& link, std::string* target);
  bool read_only() const { return read_only_; }
  bool exclusive() const { return exclusive_; }
  Ownership ownership() const { return ownership_; }

 private:
  // A node's name in /proc/self/fd.
  struct ProcName {
    explicit ProcName(int fd);
    char text[12];
  };

  Errno SetNewOwner(const Node& node, int io, const NewFile& file);
  Errno ReadOwner(const Node& node, int io, Owner* owner, struct stat* attributes);
  Errno WriteOwner(const Node& node, int io, const Owner& owner);

  UniqueFd proc_self_fd_;
  Ownership ownership_;
  bool read_only_;
  bool exclusive_;
  uid_t server_uid_;
  gid_t server_gid_;
  // Qid prefixes of (device, upper 16 bits of the inode number): see QidPath.
  struct PrefixKey {
    dev_t device;
    uint64_t upper;
    bool operator==(const PrefixKey&) const = default;
  };
  struct PrefixHash {
    size_t operator()(const PrefixKey& key) const {
      return key.device * 0x9e3779b97f4a7c15u ^ key.upper;
    }
  };
  std::unordered_map<PrefixKey, uint64_t, PrefixHash> prefixes_;
  uint64_t first_prefix_ = 0;
  struct FileHash {
    size_t operator()(const std::pair<dev_t, ino_t>& key) const {
      return key.first * 0x9e3779b97f4a7c15u ^ key.second;
    }
  };
  std::unordered_map<std::pair<dev_t, ino_t>, uint64_t, FileHash> kept_;
  PrefixKey last_key_{};
  uint64_t last_prefix_ = 0;
};

}  // namespace clearvm::p9

#endif  // CLEARVM_P9_HOST_FS_H_
