// A 9P client made for tests: it sends exactly the bytes it is told to, sound or not.
#ifndef CLEARVM_TEST_NATIVE_P9_CLIENT_H_
#define CLEARVM_TEST_NATIVE_P9_CLIENT_H_

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "native/p9/protocol.h"

namespace clearvm::p9::test {

// Fields of a message, one after another.
class Fields {
 public:
  Fields& U8(uint8_t value) { return Put(&value, sizeof(value)); }
  Fields& U16(uint16_t value) { return Put(&value, sizeof(value)); }
  Fields& U32(uint32_t value) { return Put(&value, sizeof(value)); }
  Fields& U64(uint64_t value) { return Put(&value, sizeof(value)); }
  Fields& Bytes(std::string_view value) { return Put(value.data(), value.size()); }
  Fields& Text(std::string_view value) {
    return U16(static_cast<uint16_t>(value.size())).Bytes(value);
  }
  const std::string& bytes() const { return bytes_; }

 private:
  Fields& Put(const void* from, size_t size) {
    bytes_.append(static_cast<const char*>(from), size);
    return *this;
  }
  std::string bytes_;
};

// A reply: its fields are taken off the front. Taking more than there is gives zeroes and sets
// `short_`.
struct Reply {
  uint8_t type = 0;
  uint16_t tag = 0;
  std::string fields;
  size_t position = 0;
  bool cut_short = false;

  template <typename T>
  T Take() {
    T value{};
    if (fields.size() - position < sizeof(T)) {
      cut_short = true;
      return value;
    }
    std::memcpy(&value, fields.data() + position, sizeof(T));
    position += sizeof(T);
    return value;
  }
  uint8_t U8() { return Take<uint8_t>(); }
  uint16_t U16() { return Take<uint16_t>(); }
  uint32_t U32() { return Take<uint32_t>(); }
  uint64_t U64() { return Take<uint64_t>(); }
  std::string Bytes(size_t size) {
    if (fields.size() - position < size) {
      cut_short = true;
      return {};
    }
    position += size;
    return fields.substr(position - size, size);
  }
  std::string Text() { return Bytes(U16()); }
  Qid TakeQid() {
    Qid qid;
    qid.type = U8();
    qid.version = U32();
    qid.path = U64();
    return qid;
  }
  // The errno of an Rlerror, else 0.
  int error() const {
    if (type != kRlerror) return 0;
    uint32_t code = 0;
    std::memcpy(&code, fields.data(), sizeof(code));
    return static_cast<int>(code);
  }
};

struct Attributes {
  uint64_t valid;
  Qid qid;
  uint32_t mode, uid, gid;
  uint64_t nlink, rdev, size, blksize, blocks;
  uint64_t atime, atime_ns, mtime, mtime_ns, ctime, ctime_ns, btime, btime_ns, gen, data_version;
};

struct DirEntry {
  Qid qid;
  uint64_t offset;
  uint8_t type;
  std::string name;
};

// Sends a whole message, and returns the whole reply; empty where there was none.
using Transport = std::function<std::string(const std::string& message)>;

class Client {
 public:
  explicit Client(Transport transport) : transport_(std::move(transport)) {}

  static std::string Message(uint8_t type, uint16_t tag, const Fields& fields) {
    Fields message;
    message.U32(static_cast<uint32_t>(kHeaderBytes + fields.bytes().size())).U8(type).U16(tag);
    return message.Bytes(fields.bytes()).bytes();
  }

  // Any bytes at all.
  Reply Raw(const std::string& message) {
    const std::string bytes = transport_(message);
    Reply reply;
    if (bytes.size() < kHeaderBytes) return reply;
    uint32_t size;
    std::memcpy(&size, bytes.data(), sizeof(size));
    if (size != bytes.size()) return reply;
    reply.type = static_cast<uint8_t>(bytes[4]);
    std::memcpy(&reply.tag, bytes.data() + 5, sizeof(reply.tag));
    reply.fields = bytes.substr(kHeaderBytes);
    return reply;
  }

  Reply Call(uint8_t type, const Fields& fields) { return Raw(Message(type, tag_++, fields)); }
  int Do(uint8_t type, const Fields& fields) {
    const Reply reply = Call(type, fields);
    if (reply.type == kRlerror) return reply.error();
    return reply.type == type + 1 ? 0 : -1;
  }

  Reply Version(uint32_t msize, std::string_view version = "9P2000.L") {
    return Raw(Message(kTversion, kNoTag, Fields().U32(msize).Text(version)));
  }
  int Attach(uint32_t fid, uint32_t uid = 0, std::string_view tree = "") {
    return Do(kTattach, Fields().U32(fid).U32(kNoFid).Text("").Text(tree).U32(uid));
  }
  Reply WalkReply(uint32_t fid, uint32_t to, const std::vector<std::string>& names) {
    Fields fields;
    fields.U32(fid).U32(to).U16(static_cast<uint16_t>(names.size()));
    for (const std::string& name : names) fields.Text(name);
    return Call(kTwalk, fields);
  }
  // 0 where all names were walked, -1 where only some were.
  int Walk(uint32_t fid, uint32_t to, const std::vector<std::string>& names) {
    Reply reply = WalkReply(fid, to, names);
    if (reply.type == kRlerror) return reply.error();
    return reply.U16() == names.size() ? 0 : -1;
  }
  int Clunk(uint32_t fid) { return Do(kTclunk, Fields().U32(fid)); }
  int Open(uint32_t fid, uint32_t flags) { return Do(kTlopen, Fields().U32(fid).U32(flags)); }
  int Create(uint32_t fid, std::string_view name, uint32_t flags, uint32_t mode, uint32_t gid = 0) {
    return Do(kTlcreate, Fields().U32(fid).Text(name).U32(flags).U32(mode).U32(gid));
  }
  int Read(uint32_t fid, uint64_t offset, uint32_t count, std::string* data) {
    Reply reply = Call(kTread, Fields().U32(fid).U64(offset).U32(count));
    if (reply.type == kRlerror) return reply.error();
    const uint32_t size = reply.U32();
    *data = reply.Bytes(size);
    return reply.cut_short || reply.position != reply.fields.size() ? -1 : 0;
  }
  int Write(uint32_t fid, uint64_t offset, std::string_view data, uint32_t* written = nullptr) {
    Reply reply = Call(
        kTwrite, Fields().U32(fid).U64(offset).U32(static_cast<uint32_t>(data.size())).Bytes(data));
    if (reply.type == kRlerror) return reply.error();
    const uint32_t size = reply.U32();
    if (written != nullptr) *written = size;
    return written == nullptr && size != data.size() ? -1 : 0;
  }
  int GetAttributes(uint32_t fid, Attributes* to, uint64_t mask = 0x3fff) {
    Reply reply = Call(kTgetattr, Fields().U32(fid).U64(mask));
    if (reply.type == kRlerror) return reply.error();
    to->valid = reply.U64();
    to->qid = reply.TakeQid();
    to->mode = reply.U32();
    to->uid = reply.U32();
    to->gid = reply.U32();
    for (uint64_t* field : {&to->nlink, &to->rdev, &to->size, &to->blksize, &to->blocks, &to->atime,
                            &to->atime_ns, &to->mtime, &to->mtime_ns, &to->ctime, &to->ctime_ns,
                            &to->btime, &to->btime_ns, &to->gen, &to->data_version}) {
      *field = reply.U64();
    }
    return reply.cut_short || reply.position != reply.fields.size() ? -1 : 0;
  }
  int SetAttributes(uint32_t fid, uint32_t valid, uint32_t mode, uint32_t uid = 0, uint32_t gid = 0,
                    uint64_t size = 0, uint64_t atime = 0, uint64_t atime_ns = 0,
                    uint64_t mtime = 0, uint64_t mtime_ns = 0) {
    return Do(kTsetattr, Fields()
                             .U32(fid)
                             .U32(valid)
                             .U32(mode)
                             .U32(uid)
                             .U32(gid)
                             .U64(size)
                             .U64(atime)
                             .U64(atime_ns)
                             .U64(mtime)
                             .U64(mtime_ns));
  }
  int ReadDirectory(uint32_t fid, uint64_t offset, uint32_t count, std::vector<DirEntry>* entries) {
    Reply reply = Call(kTreaddir, Fields().U32(fid).U64(offset).U32(count));
    if (reply.type == kRlerror) return reply.error();
    const uint32_t size = reply.U32();
    if (reply.fields.size() - reply.position != size || size > count) return -1;
    while (reply.position < reply.fields.size()) {
      DirEntry entry;
      entry.qid = reply.TakeQid();
      entry.offset = reply.U64();
      entry.type = reply.U8();
      entry.name = reply.Text();
      if (reply.cut_short) return -1;
      entries->push_back(entry);
    }
    return 0;
  }
  int Mkdir(uint32_t fid, std::string_view name, uint32_t mode, uint32_t gid = 0) {
    return Do(kTmkdir, Fields().U32(fid).Text(name).U32(mode).U32(gid));
  }
  int Mknod(uint32_t fid, std::string_view name, uint32_t mode, uint32_t major = 0,
            uint32_t minor = 0, uint32_t gid = 0) {
    return Do(kTmknod, Fields().U32(fid).Text(name).U32(mode).U32(major).U32(minor).U32(gid));
  }
  int Symlink(uint32_t fid, std::string_view name, std::string_view target, uint32_t gid = 0) {
    return Do(kTsymlink, Fields().U32(fid).Text(name).Text(target).U32(gid));
  }
  int ReadLink(uint32_t fid, std::string* target) {
    Reply reply = Call(kTreadlink, Fields().U32(fid));
    if (reply.type == kRlerror) return reply.error();
    *target = reply.Text();
    return 0;
  }
  int Link(uint32_t directory, uint32_t file, std::string_view name) {
    return Do(kTlink, Fields().U32(directory).U32(file).Text(name));
  }
  int Rename(uint32_t fid, uint32_t directory, std::string_view name) {
    return Do(kTrename, Fields().U32(fid).U32(directory).Text(name));
  }
  int RenameAt(uint32_t from, std::string_view name, uint32_t to, std::string_view new_name) {
    return Do(kTrenameat, Fields().U32(from).Text(name).U32(to).Text(new_name));
  }
  int UnlinkAt(uint32_t fid, std::string_view name, uint32_t flags = 0) {
    return Do(kTunlinkat, Fields().U32(fid).Text(name).U32(flags));
  }
  int Remove(uint32_t fid) { return Do(kTremove, Fields().U32(fid)); }
  int Sync(uint32_t fid, uint32_t data_only = 0) {
    return Do(kTfsync, Fields().U32(fid).U32(data_only));
  }
  int XattrWalk(uint32_t fid, uint32_t to, std::string_view name, uint64_t* size) {
    Reply reply = Call(kTxattrwalk, Fields().U32(fid).U32(to).Text(name));
    if (reply.type == kRlerror) return reply.error();
    *size = reply.U64();
    return 0;
  }
  int XattrCreate(uint32_t fid, std::string_view name, uint64_t size, uint32_t flags = 0) {
    return Do(kTxattrcreate, Fields().U32(fid).Text(name).U64(size).U32(flags));
  }
  // The status of an Rlock, or an errno negated.
  int Lock(uint32_t fid, uint8_t type, uint64_t start, uint64_t length, uint32_t pid = 1) {
    Reply reply = Call(
        kTlock, Fields().U32(fid).U8(type).U32(0).U64(start).U64(length).U32(pid).Text("test"));
    return reply.type == kRlerror ? -reply.error() : reply.U8();
  }

 private:
  Transport transport_;
  uint16_t tag_ = 1;
};

}  // namespace clearvm::p9::test

#endif  // CLEARVM_TEST_NATIVE_P9_CLIENT_H_
