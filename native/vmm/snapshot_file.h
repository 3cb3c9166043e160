// A snapshot's file as it is opened to go on from.
#ifndef CLEARVM_VMM_SNAPSHOT_FILE_H_
#define CLEARVM_VMM_SNAPSHOT_FILE_H_

#include <string>

#include "native/base/result.h"
#include "native/vmm/template.h"

namespace clearvm::vmm {

// Opens the snapshot at `path` for a VM like `host`, and checks all of it: its memory unless the
// file `checked` (empty: none) says of this one that it is good; else it says so afterwards. The
// file is locked (flock(2), shared) for as long as it is open or mapped: that is what keeps it from
// being removed. Errors: ERR_SNAPSHOT_MISSING, ERR_SNAPSHOT_DAMAGED, ERR_SNAPSHOT_FOREIGN.
Result<Template> OpenSnapshot(const std::string& path, const std::string& checked,
                              const TemplateOrigin& host);

}  // namespace clearvm::vmm

#endif  // CLEARVM_VMM_SNAPSHOT_FILE_H_
