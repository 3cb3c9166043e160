// The 9P2000.L wire format: numbers that Linux's v9fs client and this server agree on. Source: the
// Linux kernel's include/net/9p/9p.h and the message formats that net/9p/client.c sends (6.1
// and 6.12).
#ifndef CLEARVM_P9_PROTOCOL_H_
#define CLEARVM_P9_PROTOCOL_H_

#include <cstddef>
#include <cstdint>

namespace clearvm::p9 {

// T-messages; the R-message of each is one more.
enum MessageType : uint8_t {
  kRlerror = 7,
  kTstatfs = 8,
  kTlopen = 12,
  kTlcreate = 14,
  kTsymlink = 16,
  kTmknod = 18,
  kTrename = 20,
  kTreadlink = 22,
  kTgetattr = 24,
  kTsetattr = 26,
  kTxattrwalk = 30,
  kTxattrcreate = 32,
  kTreaddir = 40,
  kTfsync = 50,
  kTlock = 52,
  kTgetlock = 54,
  kTlink = 70,
  kTmkdir = 72,
  kTrenameat = 74,
  kTunlinkat = 76,
  kTversion = 100,
  kTauth = 102,
  kTattach = 104,
  kTflush = 108,
  kTwalk = 110,
  kTread = 116,
  kTwrite = 118,
  kTclunk = 120,
  kTremove = 122,
};

constexpr size_t kHeaderBytes = 7;                // size[4] type[1] tag[2]
constexpr size_t kErrorBytes = kHeaderBytes + 4;  // Rlerror: ecode[4]
constexpr size_t kReadHeader = kHeaderBytes + 4;  // Rread, Rreaddir: count[4], then the data
constexpr size_t kWriteHeader =
    kHeaderBytes + 16;  // Twrite: fid[4] offset[8] count[4], then the data
constexpr size_t kQidBytes = 13;
constexpr uint16_t kNoTag = 0xffff;
constexpr uint32_t kNoFid = 0xffffffff;
constexpr uint32_t kNoUid = 0xffffffff;
constexpr int kMaxWalk = 16;            // P9_MAXWELEM
constexpr size_t kMaxName = 255;        // NAME_MAX
constexpr uint32_t kMinMessage = 4096;  // the smallest msize that v9fs accepts

// Qid: what identifies a file. `path` is unique among all files of an export.
struct Qid {
  uint8_t type = 0;
  uint32_t version = 0;
  uint64_t path = 0;
};
constexpr uint8_t kQidDirectory = 0x80;
constexpr uint8_t kQidSymlink = 0x02;

// Tlopen and Tlcreate flags.
constexpr uint32_t kOpenAccess = 0x3;
constexpr uint32_t kOpenExclusive = 0x80;
constexpr uint32_t kOpenTruncate = 0x200;
constexpr uint32_t kOpenAppend = 0x400;
constexpr uint32_t kOpenDsync = 0x1000;
constexpr uint32_t kOpenDirectory = 0x10000;
constexpr uint32_t kOpenNoAtime = 0x40000;
constexpr uint32_t kOpenSync = 0x100000;

constexpr uint32_t kUnlinkRemoveDir = 0x200;

// Tgetattr request and result masks.
constexpr uint64_t kStatBasic = 0x7ff;
constexpr uint64_t kStatBtime = 0x800;
constexpr uint64_t kStatDataVersion = 0x2000;

// Tsetattr valid bits.
constexpr uint32_t kSetMode = 0x1;
constexpr uint32_t kSetUid = 0x2;
constexpr uint32_t kSetGid = 0x4;
constexpr uint32_t kSetSize = 0x8;
constexpr uint32_t kSetAtime = 0x10;
constexpr uint32_t kSetMtime = 0x20;
constexpr uint32_t kSetCtime = 0x40;
constexpr uint32_t kSetAtimeSet = 0x80;
constexpr uint32_t kSetMtimeSet = 0x100;

enum LockType : uint8_t { kLockRead = 0, kLockWrite = 1, kLockUnlock = 2 };
enum LockStatus : uint8_t { kLockSuccess = 0, kLockBlocked = 1, kLockError = 2 };

}  // namespace clearvm::p9

#endif  // CLEARVM_P9_PROTOCOL_H_
