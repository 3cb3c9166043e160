// How a VM ends when nobody asked it to.
#ifndef CLEARVM_VMM_VM_END_H_
#define CLEARVM_VMM_VM_END_H_

#include <functional>
#include <string>

#include "native/protocol/control.h"

namespace clearvm::vmm {

struct VmEnd {
  clearvm_failure kind;
  std::string message;
};

// Called on a vCPU's thread, once per thread at most.
using OnVmEnd = std::function<void(VmEnd)>;

}  // namespace clearvm::vmm

#endif  // CLEARVM_VMM_VM_END_H_
