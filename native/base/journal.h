// A file of lines that several processes append to, kept short.
#ifndef CLEARVM_BASE_JOURNAL_H_
#define CLEARVM_BASE_JOURNAL_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "native/base/result.h"

namespace clearvm {

// Appends whole lines (each with its end) to `<directory>/journal`, one process at a time, by a
// lock that the kernel takes back from whoever dies. A file that has `most` bytes already becomes
// `journal.1` before that, in the place of an older one. The directory (0711) is made where it is
// missing. Lines that do not fit the disk are not written in part. Errors: ERR_JOURNAL.
Result<void> AppendToJournal(const std::string& directory, std::string_view lines, uint64_t most);

}  // namespace clearvm

#endif  // CLEARVM_BASE_JOURNAL_H_
