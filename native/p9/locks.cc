#include "native/p9/locks.h"

#include <fcntl.h>

#include <algorithm>

namespace clearvm::p9 {
namespace {

constexpr size_t kMaxLocksPerFile = 4096;

struct flock HostLock(int16_t type, LockRange range) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(range.start);
  lock.l_len = range.end >= kLockToEnd ? 0 : static_cast<off_t>(range.end - range.start);
  return lock;
}

bool Overlap(LockRange a, LockRange b) { return a.start < b.end && b.start < a.end; }

}  // namespace

LockTable::File* LockTable::Open(const Fid& fid) {
  const Key key{fid.node->device, fid.node->inode};
  if (const auto found = files_.find(key); found != files_.end()) return &found->second;
  // A descriptor of its own: the locks must outlive the fid that took the first of them.
  File file;
  if (!fs_->read_only() && fs_->Open(*fid.node, O_RDWR | O_NONBLOCK, &file.fd) == 0) {
    file.writable = true;
  } else if (fs_->Open(*fid.node, O_RDONLY | O_NONBLOCK, &file.fd) != 0) {
    return nullptr;
  }
  return &files_.emplace(key, std::move(file)).first->second;
}

void LockTable::Subtract(File* file, uint32_t fid, LockRange range) {
  std::vector<Record> rest;
  for (auto record = file->records.begin(); record != file->records.end();) {
    if (record->fid != fid || !Overlap(record->range, range)) {
      ++record;
      continue;
    }
    if (record->range.start < range.start) {
      rest.push_back({fid, record->type, {record->range.start, range.start}});
    }
    if (record->range.end > range.end) {
      rest.push_back({fid, record->type, {range.end, record->range.end}});
    }
    record = file->records.erase(record);
    locks_--;
  }
  locks_ += rest.size();
  file->records.insert(file->records.end(), rest.begin(), rest.end());
}

bool LockTable::Apply(const File& file, LockRange range) {
  std::vector<uint64_t> cuts{range.start, range.end};
  for (const Record& record : file.records) {
    if (!Overlap(record.range, range)) continue;
    cuts.push_back(std::max(record.range.start, range.start));
    cuts.push_back(std::min(record.range.end, range.end));
  }
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  for (size_t i = 0; i + 1 < cuts.size(); i++) {
    const LockRange part{cuts[i], cuts[i + 1]};
    int16_t type = F_UNLCK;
    for (const Record& record : file.records) {
      if (!Overlap(record.range, part)) continue;
      if (record.type == kLockWrite && file.writable) type = F_WRLCK;
      if (type == F_UNLCK) type = F_RDLCK;
    }
    struct flock lock = HostLock(type, part);
    if (fcntl(file.fd.get(), F_OFD_SETLK, &lock) < 0) return false;
  }
  return true;
}

LockStatus LockTable::Set(const Fid& fid, LockType type, LockRange range) {
  if (!S_ISREG(fid.node->type)) return kLockSuccess;
  const Key key{fid.node->device, fid.node->inode};
  if (type == kLockUnlock) {
    const auto found = files_.find(key);
    if (found == files_.end()) return kLockSuccess;
    Subtract(&found->second, fid.number, range);
    if (found->second.records.empty()) {
      files_.erase(found);  // closes the descriptor, and with it go the host's locks
      return kLockSuccess;
    }
    return Apply(found->second, range) ? kLockSuccess : kLockError;
  }
  File* const file = Open(fid);
  if (file == nullptr) return kLockError;
  if (locks_ >= max_locks_ || file->records.size() >= kMaxLocksPerFile) return kLockError;
  const std::vector<Record> before = file->records;
  const size_t locks_before = locks_;
  Subtract(file, fid.number, range);
  file->records.push_back({fid.number, type, range});
  locks_++;
  if (Apply(*file, range)) return kLockSuccess;
  file->records = before;
  locks_ = locks_before;
  if (before.empty()) {
    files_.erase(key);
  } else {
    Apply(*file, range);
  }
  return kLockBlocked;
}

bool LockTable::Test(const Fid& fid, LockType* type, LockRange* range, uint32_t* pid) {
  if (!S_ISREG(fid.node->type)) return false;
  const auto found = files_.find({fid.node->device, fid.node->inode});
  const int fd = found != files_.end() ? found->second.fd.get() : fid.io_fd();
  struct flock lock = HostLock(*type == kLockWrite ? F_WRLCK : F_RDLCK, *range);
  if (fcntl(fd, F_OFD_GETLK, &lock) < 0 || lock.l_type == F_UNLCK) return false;
  *type = lock.l_type == F_WRLCK ? kLockWrite : kLockRead;
  range->start = static_cast<uint64_t>(lock.l_start);
  range->end = lock.l_len == 0
                   ? kLockToEnd
                   : static_cast<uint64_t>(lock.l_start) + static_cast<uint64_t>(lock.l_len);
  *pid = lock.l_pid > 0 ? static_cast<uint32_t>(lock.l_pid) : 0;
  return true;
}

void LockTable::ReleaseAll(const Fid& fid) {
  const auto found = files_.find({fid.node->device, fid.node->inode});
  if (found == files_.end()) return;
  Subtract(&found->second, fid.number, {0, kLockToEnd});
  if (found->second.records.empty()) {
    files_.erase(found);
  } else {
    Apply(found->second, {0, kLockToEnd});
  }
}

}  // namespace clearvm::p9
