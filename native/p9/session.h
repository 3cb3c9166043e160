// One client's session: what it has negotiated, its fids, and a handler for each message.
#ifndef CLEARVM_P9_SESSION_H_
#define CLEARVM_P9_SESSION_H_

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "native/base/bytes.h"
#include "native/base/result.h"
#include "native/p9/codec.h"
#include "native/p9/fids.h"
#include "native/p9/host_fs.h"
#include "native/p9/locks.h"
#include "native/p9/server.h"
#include "native/p9/window.h"

namespace clearvm::p9 {

class Session {
 public:
  Session(std::unique_ptr<HostFs> fs, NodeRef root, uint32_t max_message, uint32_t max_fids);

  // See Server::Handle.
  size_t Handle(Scattered request, Scattered reply);
  void Reset();
  void SetWindow(std::span<uint8_t> memory, NodeRef upper);
  void UseWindow() { window_used_ = window_ != nullptr; }
  // See Server's.
  Result<void> Save(ByteWriter& out);
  Result<void> Restore(ByteReader& in);

 private:
  // The largest message but Twrite that is taken: Tsymlink with the longest name and target is
  // under 4.5 KiB.
  static constexpr size_t kMaxFields = 8192;
  static constexpr size_t kMaxReplyFields = 4608;  // Rreadlink: PATH_MAX
  static constexpr size_t kDirentBytes = 65536;    // one getdents64's
  static constexpr size_t kMaxLocks = 16384;
  static constexpr size_t kMaxXattrValue = 65536;            // XATTR_SIZE_MAX
  static constexpr size_t kMaxXattrBytes = 4 * 1024 * 1024;  // of all transfers at once

  // A request while it is served.
  struct Call {
    uint8_t type;
    Decoder in;   // the fields after the header; of Twrite without the data
    Encoder out;  // the reply's fields after the header
    Scattered request;
    Scattered reply;
    size_t message_bytes;  // of the request
    size_t reply_bytes;    // the most that the reply may have
    size_t bulk = 0;       // bytes of data that follow `out` in the reply, already in place

    // Bytes of data that still fit into an Rread or Rreaddir.
    size_t BulkRoom() const { return reply_bytes > kReadHeader ? reply_bytes - kReadHeader : 0; }
  };

  Errno Dispatch(Call& call);
  Encoder EmptyReply() {
    return Encoder({reply_fields_.data() + kHeaderBytes, kMaxReplyFields - kHeaderBytes});
  }

  // session.cc
  Errno Version(Call& call);
  Errno Attach(Call& call);
  Errno Flush(Call& call);
  Errno Walk(Call& call);
  Errno Clunk(Call& call);
  void Forget(Fid* fid);
  // The fid with that number, EBADF.
  Errno Find(uint32_t number, Fid** fid);
  // The same for a directory that will be changed: EROFS, ENOTDIR as well.
  Errno FindToChange(uint32_t number, Fid** directory);

  // session_attributes.cc
  Errno GetAttributes(Call& call);
  Errno SetAttributes(Call& call);
  Errno StatFs(Call& call);
  Errno ReadLink(Call& call);

  // session_io.cc
  Errno Open(Call& call);
  Errno Create(Call& call);
  Errno Read(Call& call);
  Errno Write(Call& call);
  Errno ReadDirectory(Call& call);
  Errno Sync(Call& call);
  Errno Lock(Call& call);
  Errno GetLock(Call& call);
  Errno OpenNode(const Node& node, uint32_t flags, UniqueFd* io);
  // Shows an open file in the window if it cannot change, and is worth it.
  void ShowInWindow(Fid* fid);
  bool InImage(const Node& node);
  // Opens a fid that was open in another session.
  Errno Reopen(Fid* fid, FidKind kind, uint32_t flags);

  // session_names.cc
  Errno MakeDirectory(Call& call);
  Errno MakeNode(Call& call);
  Errno MakeSymlink(Call& call);
  Errno Make(Call& call, uint32_t directory, std::string_view name, NewFile file);
  Errno MakeLink(Call& call);
  Errno Rename(Call& call);
  Errno RenameAt(Call& call);
  Errno UnlinkAt(Call& call);
  Errno Remove(Call& call);
  Errno RemoveFile(Fid* fid);

  // session_xattrs.cc
  Errno XattrWalk(Call& call);
  Errno XattrCreate(Call& call);
  Errno ReadXattr(Call& call, const Fid& fid, uint64_t offset, uint32_t count);
  Errno WriteXattr(Call& call, Fid* fid, uint64_t offset, uint32_t count);
  Errno CommitXattr(const Fid& fid);
  Errno LoadXattr(const Fid& fid, const std::string& name, XattrTransfer* transfer);

  // session_state.cc
  struct SavedNodes;
  Result<void> SaveNode(const Node& node, bool open, uint64_t* budget, ByteWriter& out);
  Result<void> SaveNameless(const Node& node, uint64_t* budget, ByteWriter& out);
  // None: it is not there any more.
  Result<NodeRef> RestoreNode(ByteReader& in, std::string* path);
  Result<NodeRef> RestoreNameless(ByteReader& in, const std::string& path);
  Result<void> RestoreFid(ByteReader& in, const SavedNodes& nodes);
  // A name that a file has got by Tlink: the one by which it was opened may go.
  void RememberLink(const Node& file, const Node& directory, const std::string& name);
  Errno FindAnyPath(const Node& node, std::string* path);
  struct KnownLink {
    dev_t device;
    ino_t inode;
    std::string path;
  };

  std::unique_ptr<HostFs> fs_;
  NodeRef root_;
  uint32_t max_message_;
  uint32_t message_limit_;  // msize as negotiated
  bool negotiated_ = false;
  FidTable fids_;
  LockTable locks_;
  std::unique_ptr<Window> window_;  // none: nullptr
  bool window_used_ = false;        // the client knows of it
  NodeRef upper_;                   // what may change; none: nothing does
  std::vector<KnownLink> links_;    // the newest
  size_t xattr_bytes_ = 0;
  std::array<uint8_t, kMaxFields> request_fields_;
  std::array<uint8_t, kMaxReplyFields> reply_fields_;
  std::unique_ptr<uint8_t[]> dirents_;  // kDirentBytes as the host has them, then as 9P has them
};

}  // namespace clearvm::p9

#endif  // CLEARVM_P9_SESSION_H_
