// Byte-range locks of a session, made visible to the host and to other VMs.
#ifndef CLEARVM_P9_LOCKS_H_
#define CLEARVM_P9_LOCKS_H_

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "native/p9/host_fs.h"

namespace clearvm::p9 {

struct LockRange {
  uint64_t start;
  uint64_t end;  // exclusive, at most kLockToEnd
};
// The end of a range that reaches to the end of the file, wherever that comes to be.
inline constexpr uint64_t kLockToEnd = uint64_t{1} << 63;

// The guest's kernel settles the conflicts among its own processes before it asks. So the session
// is one owner of locks towards everybody else: it holds the strongest lock that any of its fids
// has on a byte, as an open file description lock (fcntl(2), F_OFD_SETLK), and never conflicts with
// itself.
class LockTable {
 public:
  LockTable(HostFs* fs, size_t max_locks) : fs_(fs), max_locks_(max_locks) {}

  // Sets or (kLockUnlock) releases a lock of `fid`; never waits. A write lock on a file that the
  // server cannot write to is a read lock to others, one on a directory is the guest's own affair.
  LockStatus Set(const Fid& fid, LockType type, LockRange range);

  // The first lock of somebody else that a lock of that type would meet. False: there is none.
  bool Test(const Fid& fid, LockType* type, LockRange* range, uint32_t* pid);

  // Releases all of a fid's locks.
  void ReleaseAll(const Fid& fid);

  void Clear() { files_.clear(), locks_ = 0; }

  // Calls `act` with each lock: its fid's number, its type and its range.
  template <typename Act>
  void ForEach(Act act) const {
    for (const auto& [key, file] : files_) {
      for (const Record& record : file.records) act(record.fid, record.type, record.range);
    }
  }

 private:
  struct Record {
    uint32_t fid;
    LockType type;
    LockRange range;
  };
  struct File {
    UniqueFd fd;
    bool writable = false;
    std::vector<Record> records;
  };
  using Key = std::pair<dev_t, ino_t>;

  File* Open(const Fid& fid);
  // Takes `range` away from the fid's records of `file`.
  void Subtract(File* file, uint32_t fid, LockRange range);
  // Makes the host's locks on `range` what the records say. False: somebody else has a lock there.
  bool Apply(const File& file, LockRange range);

  HostFs* fs_;
  size_t max_locks_;
  size_t locks_ = 0;
  std::map<Key, File> files_;
};

}  // namespace clearvm::p9

#endif  // CLEARVM_P9_LOCKS_H_
