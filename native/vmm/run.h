// Puts the parts together: one process, one VM, from options to exit status.
#ifndef CLEARVM_VMM_RUN_H_
#define CLEARVM_VMM_RUN_H_

#include "native/vmm/options.h"
#include "native/vmm/timeline.h"

namespace clearvm::vmm {

// Runs the VM that `options` describe until it ends, and returns the process's exit status
// (Session::exit_status). A spare's options become those that it is sent; 0 if nobody sends any.
// Failures are told to the control socket where there is one, else on stderr. Call on the main
// thread, once.
int RunVmm(Options& options, Timeline* timeline);

}  // namespace clearvm::vmm

#endif  // CLEARVM_VMM_RUN_H_
