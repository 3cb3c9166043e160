// Files and directories that the engine makes for each container.
#ifndef CLEARVM_BASE_FILES_H_
#define CLEARVM_BASE_FILES_H_

#include <string>
#include <string_view>

#include "native/base/result.h"

namespace clearvm {

// What StateStore.create (src/engine/state.ts) wants; all paths are absolute.
struct ContainerPlaces {
  std::string run;        // made, 0700
  std::string data;       // made, 0700, and in it `upper`, and `work` (0700)
  std::string owner;      // what the symbolic links `owner` in both say
  std::string top_layer;  // a directory: `upper` gets its owner and mode
};

// Makes a container's directories, in this order; what is made before an error stays. Errors:
// ERR_STATE.
Result<void> MakeContainerPlaces(const ContainerPlaces& places);

// Writes a file, made with mode 0600 where it is missing, cut where it is not. Errors: ERR_STATE.
Result<void> WriteFile(const std::string& path, std::string_view text);

}  // namespace clearvm

#endif  // CLEARVM_BASE_FILES_H_
