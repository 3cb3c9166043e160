#include "native/base/journal.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "native/base/fd.h"

namespace clearvm {
namespace {

Error JournalError(const char* syscall, const std::string& path) {
  return SystemError("ERR_JOURNAL", syscall, "cannot write the journal " + path);
}

}  // namespace

Result<void> AppendToJournal(const std::string& directory, std::string_view lines, uint64_t most) {
  const std::string path = directory + "/journal";
  const auto open_lock = [&directory] {
    return UniqueFd(
        ::open((directory + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  };
  UniqueFd lock = open_lock();
  if (!lock.valid() && errno == ENOENT) {
    if (::mkdir(directory.c_str(), 0711) != 0 && errno != EEXIST)
      return JournalError("mkdir", path);
    lock = open_lock();
  }
  if (!lock.valid()) return JournalError("open", path);
  while (::flock(lock.get(), LOCK_EX) != 0) {
    if (errno != EINTR) return JournalError("flock", path);
  }
  const auto open_journal = [&path] {
    return UniqueFd(
        ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  };
  UniqueFd journal = open_journal();
  struct stat info {};
  if (!journal.valid() || ::fstat(journal.get(), &info) != 0) return JournalError("open", path);
  if (static_cast<uint64_t>(info.st_size) >= most) {
    if (::rename(path.c_str(), (path + ".1").c_str()) != 0) return JournalError("rename", path);
    journal = open_journal();
    if (!journal.valid()) return JournalError("open", path);
    info.st_size = 0;
  }
  const ssize_t wrote = ::write(journal.get(), lines.data(), lines.size());
  if (wrote == static_cast<ssize_t>(lines.size())) return {};
  if (wrote >= 0) errno = ENOSPC;
  const Error error = JournalError("write", path);
  // Nobody else writes now: what there is of it goes again.
  [[maybe_unused]] const int cut = wrote > 0 ? ::ftruncate(journal.get(), info.st_size) : 0;
  return error;
}

}  // namespace clearvm
