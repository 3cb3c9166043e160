#include "native/kvm/msrs.h"

namespace clearvm::kvm {
namespace {

constexpr uint32_t kMsrMiscEnable = 0x1a0;
constexpr uint64_t kFastStrings = 1ull << 0;
constexpr uint64_t kBtsUnavailable = 1ull << 11;
constexpr uint64_t kPebsUnavailable = 1ull << 12;

// Linux takes rep movs/stos for slow on an Intel processor whose firmware has not set the
// fast-string bit, and KVM's reset value lacks it. The other two say what the CPUID policy says: no
// performance monitoring.
constexpr kvm_msr_entry kIntel[] = {
    {kMsrMiscEnable, 0, kFastStrings | kBtsUnavailable | kPebsUnavailable},
};

}  // namespace

std::span<const kvm_msr_entry> BootMsrs(const CpuidTable& guest_cpuid) {
  if (!IsIntel(guest_cpuid)) return {};
  return kIntel;
}

}  // namespace clearvm::kvm
