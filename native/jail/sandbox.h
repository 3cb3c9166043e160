// Where archives are unpacked in a user namespace: docs/decisions/image-tar.md.
#ifndef CLEARVM_JAIL_SANDBOX_H_
#define CLEARVM_JAIL_SANDBOX_H_

#include <string>

#include "native/base/result.h"

namespace clearvm::jail {

// Shuts this process into a copy of its mount namespace's tree, mounted on the empty directory
// `scratch`, in which all but `target` (which is /tmp there, and the working directory) is
// read-only; and takes from it all but the capabilities that unpacking an archive needs, and the
// memory beyond 1 GiB. It has to be in a mount namespace that is nobody else's. Errors:
// ERR_SANDBOX.
Result<void> EnterSandbox(const std::string& scratch, const std::string& target);

}  // namespace clearvm::jail

#endif  // CLEARVM_JAIL_SANDBOX_H_
