// Words for the exits of a vCPU: for reports of those that nobody handles.
#ifndef CLEARVM_KVM_EXIT_H_
#define CLEARVM_KVM_EXIT_H_

#include <cstdint>
#include <string>

#include "native/kvm/memory.h"
#include "native/kvm/vcpu.h"

namespace clearvm::kvm {

// "KVM_EXIT_IO" for KVM_EXIT_IO, and so on; "KVM_EXIT_?" for a reason that we do not know.
const char* ExitName(uint32_t reason);

// One line: the exit with its details, rip, the code bytes there as far as guest memory holds them,
// and the main registers. To be called on the vCPU's thread, after Run.
std::string DescribeExit(const Vcpu& vcpu, const GuestMemory& memory);

}  // namespace clearvm::kvm

#endif  // CLEARVM_KVM_EXIT_H_
