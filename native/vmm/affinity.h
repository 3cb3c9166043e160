// Which of the host's processors a VM runs on.

#ifndef CLEARVM_NATIVE_VMM_AFFINITY_H_
#define CLEARVM_NATIVE_VMM_AFFINITY_H_

#include <string_view>

#include "native/base/result.h"

namespace clearvm::vmm {

// Has this thread, and those that it starts from now on, run on the processors of a list such as
// "0-3,7" alone (cpuset(7), "List format"), of which numbers up to 1023 are known. Errors:
// ERR_CPUSET: no such list, or one of processors that are not there.
Result<void> RunOnProcessors(std::string_view list);

}  // namespace clearvm::vmm

#endif  // CLEARVM_NATIVE_VMM_AFFINITY_H_
