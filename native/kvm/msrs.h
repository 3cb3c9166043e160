// Model-specific registers that a vCPU needs beyond KVM's reset state.
#ifndef CLEARVM_KVM_MSRS_H_
#define CLEARVM_KVM_MSRS_H_

#include <span>

#include "native/base/linux_kvm.h"
#include "native/kvm/cpuid.h"

namespace clearvm::kvm {

// What firmware would have set on this processor, for Vcpu::SetMsrs; empty (nothing to do) on AMD.
std::span<const kvm_msr_entry> BootMsrs(const CpuidTable& guest_cpuid);

}  // namespace clearvm::kvm

#endif  // CLEARVM_KVM_MSRS_H_
