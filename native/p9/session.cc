#include "native/p9/session.h"

#include <algorithm>
#include <cerrno>

namespace clearvm::p9 {
namespace {

constexpr std::string_view kVersion = "9P2000.L";

}  // namespace

Session::Session(std::unique_ptr<HostFs> fs, NodeRef root, uint32_t max_message, uint32_t max_fids)
    : fs_(std::move(fs)),
      root_(std::move(root)),
      max_message_(max_message),
      message_limit_(max_message),
      fids_(max_fids),
      locks_(fs_.get(), kMaxLocks) {}

void Session::SetWindow(std::span<uint8_t> memory, NodeRef upper) {
  if (!memory.empty()) window_ = std::make_unique<Window>(memory);
  upper_ = std::move(upper);
}

void Session::Reset() {
  fids_.Clear();
  if (window_ != nullptr) window_->Clear();
  locks_.Clear();
  links_.clear();
  xattr_bytes_ = 0;
  negotiated_ = false;
  message_limit_ = max_message_;
}

size_t Session::Handle(Scattered request, Scattered reply) {
  const size_t request_bytes = TotalBytes(request);
  const size_t reply_bytes = TotalBytes(reply);
  // Every byte is copied once, and then belongs to us: the client may change its memory at any
  // time. The first part tells whether there is a second: a Twrite's data stays where it is.
  uint8_t* const fields = request_fields_.data();
  size_t copied = CopyFrom(request, 0, fields, std::min(request_bytes, kWriteHeader));

  uint8_t type = 0;
  uint16_t tag = kNoTag;
  Errno error = 0;
  Encoder out = EmptyReply();
  size_t bulk = 0;
  if (copied < kHeaderBytes) {
    error = EPROTO;
  } else {
    uint32_t size;
    std::memcpy(&size, fields, sizeof(size));
    type = fields[4];
    std::memcpy(&tag, fields + 5, sizeof(tag));
    if (size != request_bytes) {
      error = EPROTO;
    } else if (size > message_limit_) {
      error = EMSGSIZE;
    } else if (type != kTwrite) {
      if (size > kMaxFields) {
        error = EMSGSIZE;
      } else {
        copied += CopyFrom(request, copied, fields + copied, size - copied);
      }
    }
  }
  if (error == 0) {
    Call call{.type = type,
              .in = Decoder(std::span(fields, copied).subspan(kHeaderBytes)),
              .out = out,
              .request = request,
              .reply = reply,
              .message_bytes = request_bytes,
              .reply_bytes = std::min<size_t>(reply_bytes, message_limit_)};
    error = Dispatch(call);
    out = call.out;
    bulk = call.bulk;
    if (error == 0 && (!out.ok() || kHeaderBytes + out.size() + bulk > reply_bytes)) {
      error = EMSGSIZE;
    }
  }
  if (error != 0) {
    out = EmptyReply();
    out.U32(static_cast<uint32_t>(error));
    bulk = 0;
    if (reply_bytes < kErrorBytes) return 0;
  }
  const size_t head = kHeaderBytes + out.size();
  Encoder header({reply_fields_.data(), kHeaderBytes});
  header.U32(static_cast<uint32_t>(head + bulk));
  header.U8(static_cast<uint8_t>(error != 0 ? kRlerror : type + 1));
  header.U16(tag);
  CopyTo(reply, 0, reply_fields_.data(), head);
  return head + bulk;
}

Errno Session::Dispatch(Call& call) {
  if (call.type == kTversion) return Version(call);
  if (!negotiated_) return EPROTO;
  switch (call.type) {
    case kTattach:
      return Attach(call);
    case kTflush:
      return Flush(call);
    case kTwalk:
      return Walk(call);
    case kTclunk:
      return Clunk(call);
    case kTgetattr:
      return GetAttributes(call);
    case kTsetattr:
      return SetAttributes(call);
    case kTstatfs:
      return StatFs(call);
    case kTreadlink:
      return ReadLink(call);
    case kTlopen:
      return Open(call);
    case kTlcreate:
      return Create(call);
    case kTread:
      return Read(call);
    case kTwrite:
      return Write(call);
    case kTreaddir:
      return ReadDirectory(call);
    case kTfsync:
      return Sync(call);
    case kTlock:
      return Lock(call);
    case kTgetlock:
      return GetLock(call);
    case kTmkdir:
      return MakeDirectory(call);
    case kTmknod:
      return MakeNode(call);
    case kTsymlink:
      return MakeSymlink(call);
    case kTlink:
      return MakeLink(call);
    case kTrename:
      return Rename(call);
    case kTrenameat:
      return RenameAt(call);
    case kTunlinkat:
      return UnlinkAt(call);
    case kTremove:
      return Remove(call);
    case kTxattrwalk:
      return XattrWalk(call);
    case kTxattrcreate:
      return XattrCreate(call);
    default:
      // Tauth too: there is nothing to authenticate to, the transport is the client's own.
      return EOPNOTSUPP;
  }
}

Errno Session::Find(uint32_t number, Fid** fid) {
  *fid = fids_.Find(number);
  return *fid == nullptr ? EBADF : 0;
}

Errno Session::FindToChange(uint32_t number, Fid** directory) {
  if (const Errno error = Find(number, directory); error != 0) return error;
  if (!S_ISDIR((*directory)->node->type)) return ENOTDIR;
  return fs_->read_only() ? EROFS : 0;
}

Errno Session::Version(Call& call) {
  const uint32_t msize = call.in.U32();
  const std::string_view version = call.in.String();
  if (!call.in.Complete()) return EPROTO;
  if (msize < kMinMessage) return EINVAL;
  Reset();
  negotiated_ = version == kVersion;
  if (negotiated_) message_limit_ = std::min(msize, max_message_);
  call.out.U32(std::min(msize, max_message_));
  call.out.String(negotiated_ ? kVersion : "unknown");
  return 0;
}

Errno Session::Attach(Call& call) {
  const uint32_t number = call.in.U32();
  const uint32_t auth = call.in.U32();
  call.in.String();  // uname: the numeric one decides
  const std::string_view tree = call.in.String();
  const uint32_t uid = call.in.U32();
  if (!call.in.Complete()) return EPROTO;
  if (auth != kNoFid) return EBADF;
  if (!tree.empty() && tree != "/") return ENOENT;  // an export is one tree
  if (number == kNoFid || fids_.Find(number) != nullptr) return EBADF;
  Fid* const fid = fids_.Insert(number);
  if (fid == nullptr) return ENFILE;
  fid->uid = uid == kNoUid ? 0 : uid;
  fid->node = root_;
  fid->parent = root_;
  call.out.PutQid(root_->qid);
  return 0;
}

Errno Session::Flush(Call& call) {
  call.in.U16();
  // Requests are served one after another: what is to be flushed has been answered already.
  return call.in.Complete() ? 0 : EPROTO;
}

Errno Session::Walk(Call& call) {
  const uint32_t number = call.in.U32();
  const uint32_t new_number = call.in.U32();
  const uint16_t count = call.in.U16();
  if (count > kMaxWalk) return EINVAL;
  std::array<std::string_view, kMaxWalk> names;
  for (uint16_t i = 0; i < count; i++) names[i] = call.in.String();
  if (!call.in.Complete()) return EPROTO;

  Fid* fid;
  if (const Errno error = Find(number, &fid); error != 0) return error;
  if (fid->xattr != nullptr) return EBADF;
  const bool in_place = new_number == number;
  if (in_place ? fid->kind != FidKind::kPath
               : new_number == kNoFid || fids_.Find(new_number) != nullptr) {
    return EBADF;
  }
  if (!in_place && fids_.full()) return ENFILE;

  NodeRef node = fid->node;
  NodeRef parent = fid->parent;
  std::string_view name = fid->name;
  std::array<Qid, kMaxWalk> qids;
  uint16_t walked = 0;
  for (; walked < count; walked++) {
    NodeRef next;
    Errno error;
    if (names[walked] == "..") {
      error = fs_->WalkUp(node, *root_, &next);
      name = {};
    } else {
      EntryName entry;
      error = entry.Set(names[walked]);
      if (error == 0) error = fs_->Walk(*node, entry, &next);
      name = names[walked];
    }
    if (error != 0) {
      if (walked == 0) return error;
      break;  // a walk that got somewhere succeeds, with fewer qids than names and without a new
              // fid
    }
    parent = std::move(node);
    node = std::move(next);
    qids[walked] = node->qid;
  }
  if (walked == count) {
    Fid* const result = in_place ? fid : fids_.Insert(new_number);
    result->uid = fid->uid;
    result->node = std::move(node);
    result->parent = std::move(parent);
    if (result != fid || count != 0) result->name.assign(name);
  }
  call.out.U16(walked);
  for (uint16_t i = 0; i < walked; i++) call.out.PutQid(qids[i]);
  return 0;
}

Errno Session::Clunk(Call& call) {
  const uint32_t number = call.in.U32();
  if (!call.in.Complete()) return EPROTO;
  Fid* fid;
  if (const Errno error = Find(number, &fid); error != 0) return error;
  const Errno error = fid->kind == FidKind::kXattrWrite ? CommitXattr(*fid) : 0;
  Forget(fid);
  return error;
}

void Session::Forget(Fid* fid) {
  if (fid->locked) locks_.ReleaseAll(*fid);
  if (fid->xattr != nullptr) xattr_bytes_ -= fid->xattr->size;
  if (fid->window != 0) window_->Release(fid->window);
  fids_.Erase(fid);
}

}  // namespace clearvm::p9
