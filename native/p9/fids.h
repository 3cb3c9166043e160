// Fids: the client's handles, and the files that they stand for.
#ifndef CLEARVM_P9_FIDS_H_
#define CLEARVM_P9_FIDS_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "native/base/fd.h"
#include "native/p9/protocol.h"

namespace clearvm::p9 {

// One file that was reached by a walk: an open descriptor (O_PATH, or the one that created it),
// never a path. It goes on naming the same file whatever is renamed, unlinked or replaced
// meanwhile. Shared by clones of a fid.
struct Node {
  UniqueFd fd;
  mode_t type = 0;  // S_IFMT bits, as the host has them
  dev_t device = 0;
  ino_t inode = 0;
  Qid qid;
  uint32_t references = 0;
};

// Counts the references of a Node. Not atomic: a Server is used by one thread at a time.
class NodeRef {
 public:
  NodeRef() = default;
  explicit NodeRef(Node* node) : node_(node) { Acquire(); }
  NodeRef(const NodeRef& other) : node_(other.node_) { Acquire(); }
  NodeRef(NodeRef&& other) noexcept : node_(std::exchange(other.node_, nullptr)) {}
  NodeRef& operator=(NodeRef other) noexcept {
    std::swap(node_, other.node_);
    return *this;
  }
  ~NodeRef() {
    if (node_ != nullptr && --node_->references == 0) delete node_;
  }

  Node* operator->() const { return node_; }
  Node& operator*() const { return *node_; }
  explicit operator bool() const { return node_ != nullptr; }

 private:
  void Acquire() {
    if (node_ != nullptr) node_->references++;
  }
  Node* node_ = nullptr;
};

// An extended attribute that is being read or written through a fid of its own.
struct XattrTransfer {
  std::string name;
  uint64_t size = 0;  // the whole value's, bytes
  std::vector<uint8_t> value;
  uint32_t flags = 0;  // XATTR_CREATE, XATTR_REPLACE
};

enum class FidKind : uint8_t {
  kPath,        // not open
  kFile,        // open regular file
  kDirectory,   // open directory
  kXattrRead,   // Txattrwalk's
  kXattrWrite,  // Txattrcreate's
};

struct Fid {
  uint32_t number = kNoFid;
  uint32_t uid = 0;  // of the guest's user who attached
  FidKind kind = FidKind::kPath;
  bool readable = false;  // kFile
  bool writable = false;  // kFile
  bool locked = false;    // has held a lock
  uint32_t flags = 0;     // kFile and kDirectory: Tlopen's or Tlcreate's
  uint32_t window = 0;    // kFile: its place in the window (window.h), or 0
  NodeRef node;
  // Where the walk found it, for Tremove and Trename only; they verify that it is still there.
  NodeRef parent;
  std::string name;
  UniqueFd io;                      // kFile and kDirectory: open for I/O; invalid: node->fd is
  uint64_t directory_position = 0;  // kDirectory: where the descriptor's offset is
  std::unique_ptr<XattrTransfer> xattr;

  int io_fd() const { return io.valid() ? io.get() : node->fd.get(); }
};

// All fids of a session, by number: an open-addressing table, because a lookup is part of every
// message.
class FidTable {
 public:
  explicit FidTable(uint32_t limit) : limit_(limit) {}

  // The fid with that number, or nullptr. Valid until it is erased.
  Fid* Find(uint32_t number);

  // A new fid with that number; nullptr where the limit is reached. It must not exist yet.
  Fid* Insert(uint32_t number);

  // Calls `act` with each fid, in no order; it may change no number, and erase none.
  template <typename Act>
  void ForEach(Act act) const {
    for (const auto& slot : slots_) {
      if (slot != nullptr) act(*slot);
    }
  }

  void Erase(Fid* fid);
  void Clear();
  uint32_t size() const { return size_; }
  bool full() const { return size_ >= limit_; }

 private:
  size_t Home(uint32_t number) const;
  void Grow();

  uint32_t limit_;
  uint32_t size_ = 0;
  std::vector<std::unique_ptr<Fid>> slots_;  // a power of two of them
  std::vector<std::unique_ptr<Fid>> spare_;  // reused, so that a walk allocates nothing for its fid
};

}  // namespace clearvm::p9

#endif  // CLEARVM_P9_FIDS_H_
