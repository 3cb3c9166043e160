// What a VMM opens and asks of the host before its jail.
#ifndef CLEARVM_VMM_HOST_FILES_H_
#define CLEARVM_VMM_HOST_FILES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "native/base/fd.h"
#include "native/base/result.h"
#include "native/kvm/memory.h"
#include "native/vmm/options.h"

namespace clearvm::vmm {

// A second descriptor of the same open file, closed on exec; none if there is none, or no room.
UniqueFd Duplicate(int fd);

// Of an absolute path, without the slash behind it: "" for a file in the root.
std::string Directory(const std::string& path);

// A descriptor of its own for what the option names. Errors: `code`.
Result<UniqueFd> OpenFile(const FileOption& option, const char* code);

// The whole of it, at most 1 MiB. Errors: ERR_VMM_SPEC.
Result<std::vector<uint8_t>> ReadSpec(const FileOption& option);

// Shared memory gets huge pages only where the host's policy allows it, and a guest boots far
// faster with them (docs/decisions): where it does not, private memory is the better choice for a
// VM that nobody snapshots.
kvm::Backing ChooseBacking(BackingOption option);

// A Unix stream socket that listens at `path`, which must not exist. Errors: ERR_VMM_VSOCK.
Result<UniqueFd> ListenAt(const std::string& path);

}  // namespace clearvm::vmm

#endif  // CLEARVM_VMM_HOST_FILES_H_
