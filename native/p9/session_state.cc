// A session as bytes: what a snapshot keeps of the files that a guest has in its hands.
#include <fcntl.h>
#include <linux/limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <utility>

#include "native/p9/session.h"

namespace clearvm::p9 {
namespace {

// Content of files without a name, all of a session's together: it goes through memory.
constexpr uint64_t kMaxNameless = 256ull << 20;
constexpr size_t kMaxPiece = 1 << 20;

enum class Place : uint8_t {
  kPath,      // a path below the export
  kNameless,  // no name leads there: it is kept whole
  kLost,      // there is a name, nobody knows which; not open
};

// Attributes as the guest sees them.
struct SavedAttributes {
  uint32_t mode;
  uint32_t uid;
  uint32_t gid;
  uint32_t zero;
  uint64_t device;
  uint64_t size;
  timespec accessed;
  timespec modified;
};

struct SavedFid {
  uint32_t number;
  uint32_t uid;
  uint32_t node;  // indices into the list of nodes
  uint32_t parent;
  uint32_t flags;
  uint32_t window;
  FidKind kind;
  uint8_t zero[3];
};

struct SavedLock {
  uint32_t fid;
  uint32_t type;
  uint64_t start;
  uint64_t end;
};

struct Piece {
  uint64_t offset;
  uint64_t size;  // 0: the last
};

Error FilesError(const std::string& path, const std::string& why) {
  return Error{"ERR_SNAPSHOT_FILES", 0, "", "the file /" + path + " " + why};
}
Error StateError(const char* what) {
  return Error{"ERR_DEVICE_STATE", 0, "", std::string("the saved 9p session: ") + what};
}

void PutText(ByteWriter& out, std::string_view text) {
  out.PutList(std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
}
std::string TakeText(ByteReader& in) {
  const std::vector<uint8_t> bytes = in.TakeList<uint8_t>(PATH_MAX);
  return {bytes.begin(), bytes.end()};
}

bool IsOpen(const Fid& fid) {
  return fid.kind == FidKind::kFile || fid.kind == FidKind::kDirectory;
}

// The file's data, without its holes.
Result<void> SaveContent(int fd, uint64_t* budget, const std::string& name, ByteWriter& out) {
  std::vector<uint8_t> bytes(kMaxPiece);
  for (off_t at = 0;;) {
    const off_t data = ::lseek(fd, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;
    if (data < 0) return SystemError("ERR_SNAPSHOT_FILES", "lseek", "the open file " + name);
    const off_t hole = ::lseek(fd, data, SEEK_HOLE);
    if (hole <= data) continue;  // somebody has cut it short meanwhile
    const auto length = std::min<uint64_t>(bytes.size(), static_cast<uint64_t>(hole - data));
    const ssize_t got = ::pread(fd, bytes.data(), length, data);
    if (got < 0) return SystemError("ERR_SNAPSHOT_FILES", "pread", "the open file " + name);
    if (got == 0) break;
    const auto size = static_cast<uint64_t>(got);
    if (size > *budget) {
      return Error{"ERR_SNAPSHOT_FILES", 0, "",
                   "files that are open and were removed, such as " + name +
                       ", hold more than 256 MiB: close them, or end who has them open"};
    }
    *budget -= size;
    out.Put(Piece{static_cast<uint64_t>(data), size});
    out.PutBytes(std::span(bytes).first(size));
    at = data + got;
  }
  out.Put(Piece{});
  return {};
}

}  // namespace

struct Session::SavedNodes {
  struct Entry {
    NodeRef node;  // none: lost
    std::string path;
  };
  std::vector<Entry> list;
};

void Session::RememberLink(const Node& file, const Node& directory, const std::string& name) {
  constexpr size_t kMost = 1024;
  std::string path;
  if (fs_->FindPath(*root_, directory, &path) != 0) return;
  if (links_.size() >= kMost) links_.erase(links_.begin());
  links_.push_back({file.device, file.inode, path.empty() ? name : path + "/" + name});
}

Errno Session::FindAnyPath(const Node& node, std::string* path) {
  Errno error = fs_->FindPath(*root_, node, path);
  if (error == 0) return 0;
  for (const KnownLink& link : links_) {
    NodeRef found;
    if (link.device != node.device || link.inode != node.inode) continue;
    if (fs_->OpenPath(*root_, link.path, &found) != 0) continue;
    if (found->device != node.device || found->inode != node.inode) continue;
    *path = link.path;
    return 0;
  }
  return error;
}

Result<void> Session::SaveNameless(const Node& node, uint64_t* budget, ByteWriter& out) {
  struct stat is;
  const std::string name = "with inode number " + std::to_string(node.inode);
  UniqueFd io;
  Errno error = S_ISREG(node.type) ? fs_->Open(node, O_RDONLY | O_NONBLOCK, &io) : 0;
  if (error == 0) error = fs_->Stat(node, io.get(), &is);
  if (error != 0) {
    errno = error;
    return SystemError("ERR_SNAPSHOT_FILES", "fstat", "the open file " + name);
  }
  SavedAttributes saved{};
  saved.mode = is.st_mode;
  saved.uid = is.st_uid;
  saved.gid = is.st_gid;
  saved.device = is.st_rdev;
  saved.size = static_cast<uint64_t>(is.st_size);
  saved.accessed = is.st_atim;
  saved.modified = is.st_mtim;
  out.Put(saved);
  std::string target;
  if (S_ISLNK(node.type)) (void)fs_->ReadTarget(node, &target);
  PutText(out, target);
  return S_ISREG(node.type) ? SaveContent(io.get(), budget, name, out) : Result<void>();
}

Result<void> Session::SaveNode(const Node& node, bool open, uint64_t* budget, ByteWriter& out) {
  out.Put(node.qid.path);
  out.Put(static_cast<uint32_t>(node.type));
  std::string path;
  const Errno error = FindAnyPath(node, &path);
  if (error == 0) {
    out.Put(Place::kPath);
    PutText(out, path);
    return {};
  }
  struct stat is;
  if (::fstat(node.fd.get(), &is) < 0) {
    return SystemError("ERR_SNAPSHOT_FILES", "fstat", "an open file");
  }
  // An overlay counts the names that a file has in the image, too, and a removed one has one there.
  const bool nameless =
      error == ENOENT && (fs_->exclusive() || is.st_nlink == 0 || S_ISDIR(node.type));
  if (!nameless && open) {
    return FilesError(path, error == ENAMETOOLONG
                                ? "is open, and its path is too long for a snapshot"
                                : "is open, and has lost the name by which it was opened, but "
                                  "not all of its names: it could not be found again");
  }
  out.Put(nameless ? Place::kNameless : Place::kLost);
  PutText(out, path);
  if (!nameless) return {};
  if (fs_->read_only()) {
    return FilesError(path,
                      "is open, and was removed from a read-only volume: it could not be "
                      "made again");
  }
  return SaveNameless(node, budget, out);
}

Result<void> Session::Save(ByteWriter& out) {
  out.Put(static_cast<uint8_t>(negotiated_ ? 1 : 0));
  out.Put(message_limit_);
  out.Put(fs_->used_prefixes());
  out.Put(root_->qid.path);

  // Each file once, however many fids it has.
  using Key = std::pair<dev_t, ino_t>;
  std::map<Key, uint32_t> indices;
  std::vector<std::pair<const Node*, bool>> nodes;
  const auto add = [&](const NodeRef& node, bool open) {
    const auto [entry, added] =
        indices.emplace(Key{node->device, node->inode}, static_cast<uint32_t>(nodes.size()));
    if (added) nodes.emplace_back(&*node, open);
    nodes[entry->second].second |= open;
  };
  fids_.ForEach([&](const Fid& fid) {
    add(fid.node, IsOpen(fid));
    add(fid.parent, false);
  });
  uint64_t budget = kMaxNameless;
  out.Put(static_cast<uint32_t>(nodes.size()));
  for (const auto& [node, open] : nodes) {
    CLEARVM_RETURN_IF_ERROR(SaveNode(*node, open, &budget, out));
  }

  out.Put(fids_.size());
  fids_.ForEach([&](const Fid& fid) {
    const auto index = [&](const NodeRef& node) {
      return indices.at(Key{node->device, node->inode});
    };
    const uint32_t window = fid.window != 0 && window_->Current(fid.window) ? fid.window : 0;
    out.Put(SavedFid{
        fid.number, fid.uid, index(fid.node), index(fid.parent), fid.flags, window, fid.kind, {}});
    PutText(out, fid.name);
    if (fid.xattr == nullptr) return;
    PutText(out, fid.xattr->name);
    out.Put(fid.xattr->size);
    out.Put(fid.xattr->flags);
    out.PutList(std::span<const uint8_t>(fid.xattr->value));
  });

  std::vector<SavedLock> saved;
  locks_.ForEach([&](uint32_t fid, LockType type, LockRange range) {
    saved.push_back({fid, type, range.start, range.end});
  });
  out.PutList(std::span<const SavedLock>(saved));
  return {};
}

Result<NodeRef> Session::RestoreNameless(ByteReader& in, const std::string& path) {
  const auto saved = in.Take<SavedAttributes>();
  const std::string target = TakeText(in);
  const auto failed = [&](Errno error) {
    errno = error;
    return SystemError("ERR_SNAPSHOT_FILES", "openat",
                       "the file /" + path + ", which was open and removed, cannot be made again");
  };
  NewFile file{.mode = saved.mode,
               .uid = saved.uid,
               .gid = saved.gid,
               .device = saved.device,
               .target = target.c_str()};
  NodeRef node;
  UniqueFd io;
  if (!in.ok() || (S_ISLNK(saved.mode) && target.empty())) return StateError("it is cut short");
  if (const Errno error = fs_->MakeNameless(*root_, file, &node, &io); error != 0) {
    return failed(error);
  }
  if (!S_ISREG(saved.mode)) return node;
  for (;;) {
    const auto piece = in.Take<Piece>();
    if (!in.ok()) return StateError("it is cut short");
    if (piece.size == 0) break;
    const auto bytes = in.TakeBytes(piece.size);
    if (bytes.empty() || static_cast<off_t>(piece.offset) < 0) return StateError("it is cut short");
    for (size_t at = 0; at < bytes.size();) {
      const ssize_t wrote = ::pwrite(io.get(), bytes.data() + at, bytes.size() - at,
                                     static_cast<off_t>(piece.offset + at));
      if (wrote < 0) return failed(errno);
      at += static_cast<size_t>(wrote);
    }
  }
  if (static_cast<off_t>(saved.size) < 0) return StateError("a size that makes no sense");
  if (::ftruncate(io.get(), static_cast<off_t>(saved.size)) < 0) return failed(errno);
  const timespec times[2] = {saved.accessed, saved.modified};
  (void)::futimens(io.get(), times);  // nonsense there is nobody's harm
  return node;
}

Result<NodeRef> Session::RestoreNode(ByteReader& in, std::string* path) {
  const auto qid_path = in.Take<uint64_t>();
  const auto type = in.Take<uint32_t>();
  const auto place = in.Take<Place>();
  *path = TakeText(in);
  NodeRef node;
  if (place == Place::kNameless) {
    CLEARVM_ASSIGN(node, RestoreNameless(in, *path));
  } else if (place == Place::kPath) {
    const Errno error = path->empty() ? 0 : fs_->OpenPath(*root_, *path, &node);
    if (path->empty()) node = root_;
    if (error != 0) return NodeRef();
  } else if (place != Place::kLost) {
    return StateError("a file that makes no sense");
  }
  if (!node || node->type != (type & S_IFMT)) return NodeRef();
  fs_->KeepQid(*node, qid_path);
  node->qid.path = qid_path;
  return node;
}

Result<void> Session::RestoreFid(ByteReader& in, const SavedNodes& nodes) {
  const auto saved = in.Take<SavedFid>();
  const std::string name = TakeText(in);
  const bool transfers = saved.kind == FidKind::kXattrRead || saved.kind == FidKind::kXattrWrite;
  std::unique_ptr<XattrTransfer> xattr;
  if (transfers) {
    xattr = std::make_unique<XattrTransfer>();
    xattr->name = TakeText(in);
    xattr->size = in.Take<uint64_t>();
    xattr->flags = in.Take<uint32_t>();
    xattr->value = in.TakeList<uint8_t>(kMaxXattrValue);
    if (xattr->size > kMaxXattrValue || xattr->value.size() > xattr->size ||
        xattr->size > kMaxXattrBytes - xattr_bytes_) {
      return StateError("an extended attribute that makes no sense");
    }
  }
  if (!in.ok() || saved.node >= nodes.list.size() || saved.parent >= nodes.list.size() ||
      saved.kind > FidKind::kXattrWrite || saved.number == kNoFid ||
      fids_.Find(saved.number) != nullptr) {
    return StateError("a fid that makes no sense");
  }
  const SavedNodes::Entry& entry = nodes.list[saved.node];
  const bool open = saved.kind == FidKind::kFile || saved.kind == FidKind::kDirectory;
  if (!entry.node) {
    // The guest is told when it next asks; it does the same with files that others remove.
    if (!open && !fs_->exclusive()) return {};
    return FilesError(entry.path, open ? "is open in the snapshot, and is not there any more"
                                       : "of the snapshot is not there any more");
  }
  Fid* const fid = fids_.Insert(saved.number);
  if (fid == nullptr) return StateError("more fids than there may be");
  const NodeRef& parent = nodes.list[saved.parent].node;
  fid->uid = saved.uid;
  fid->node = entry.node;
  fid->parent = parent ? parent : root_;
  if (parent) fid->name = name;
  if (transfers) {
    xattr_bytes_ += xattr->size;
    fid->kind = saved.kind;
    fid->xattr = std::move(xattr);
    return {};
  }
  if (!open) return {};
  if (const Errno error = Reopen(fid, saved.kind, saved.flags); error != 0) {
    return FilesError(entry.path, std::string("is open in the snapshot, and cannot be opened: ") +
                                      std::strerror(error));
  }
  if (saved.window == 0) return {};
  // The client has it mapped at that place, and reads there.
  struct stat is;
  if (!window_used_ || ::fstat(fid->io_fd(), &is) < 0 ||
      !window_->ShowAt(saved.window, *fid->node, fid->io_fd(), static_cast<uint64_t>(is.st_size))) {
    return StateError("a file that cannot be shown where it was");
  }
  fid->window = saved.window;
  return {};
}

Result<void> Session::Restore(ByteReader& in) {
  Reset();
  negotiated_ = in.Take<uint8_t>() != 0;
  message_limit_ = std::clamp<uint32_t>(in.Take<uint32_t>(), kMinMessage, max_message_);
  fs_->ForgetQids(in.Take<uint32_t>());
  root_->qid.path = in.Take<uint64_t>();
  fs_->KeepQid(*root_, root_->qid.path);
  SavedNodes nodes;
  for (auto left = in.Take<uint32_t>(); left > 0 && in.ok(); left--) {
    std::string path;
    CLEARVM_ASSIGN(NodeRef node, RestoreNode(in, &path));
    nodes.list.push_back({std::move(node), std::move(path)});
  }
  for (auto left = in.Take<uint32_t>(); left > 0 && in.ok(); left--) {
    CLEARVM_RETURN_IF_ERROR(RestoreFid(in, nodes));
  }
  for (const SavedLock& saved : in.TakeList<SavedLock>(kMaxLocks)) {
    Fid* const fid = fids_.Find(saved.fid);
    if (fid == nullptr || saved.type > kLockWrite || saved.start >= saved.end ||
        saved.end > kLockToEnd) {
      return StateError("a lock that makes no sense");
    }
    fid->locked = true;
    if (locks_.Set(*fid, static_cast<LockType>(saved.type), {saved.start, saved.end}) ==
        kLockSuccess) {
      continue;
    }
    std::string path;
    (void)fs_->FindPath(*root_, *fid->node, &path);
    return FilesError(path, "is locked in the snapshot, and now by somebody else");
  }
  return in.ok() ? Result<void>() : StateError("it is cut short");
}

}  // namespace clearvm::p9
