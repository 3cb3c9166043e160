// CPUID policy: what the guest is told about its processor (Intel SDM volume 2A and AMD APM volume
// 3, "CPUID"; Documentation/virt/kvm/x86/cpuid.rst).
#ifndef CLEARVM_KVM_CPUID_H_
#define CLEARVM_KVM_CPUID_H_

#include <cstdint>
#include <vector>

#include "native/base/linux_kvm.h"

namespace clearvm::kvm {

using CpuidTable = std::vector<kvm_cpuid_entry2>;

struct CpuidPolicy {
  uint32_t cpus = 1;          // vCPUs: shown as one package of that many cores, one thread each
  bool tsc_deadline = false;  // KVM_CAP_TSC_DEADLINE_TIMER: KVM never reports the feature by itself
  uint32_t tsc_khz = 0;       // for the timing leaf 0x40000010; 0: unknown, no such leaf
};

// What the guest gets of `supported` (System::SupportedCpuid). Hides what ClearVM cannot keep
// promises about: each bit has its reason in cpuid.cc. Still without APIC ids.
CpuidTable GuestCpuid(CpuidTable supported, const CpuidPolicy& policy);

// Writes `apic_id` (0 to 254) into each leaf that holds one: call it before each vCPU's SetCpuid.
void SetApicId(CpuidTable& table, uint32_t apic_id);

// The entry of `function` and `index`, or nullptr.
kvm_cpuid_entry2* FindCpuid(CpuidTable& table, uint32_t function, uint32_t index = 0);
const kvm_cpuid_entry2* FindCpuid(const CpuidTable& table, uint32_t function, uint32_t index = 0);

// Whether a guest that was told `then` can go on where it would be told `now`: features must be the
// same, and the TSC as fast, but for the difference that KVM does not scale either. A rate that a
// kernel has measured need not be the same at the next boot.
bool CpuidFits(CpuidTable then, const CpuidTable& now);

// True when leaf 0 of `table` names Intel: such guests need BootMsrs().
bool IsIntel(const CpuidTable& table);

}  // namespace clearvm::kvm

#endif  // CLEARVM_KVM_CPUID_H_
