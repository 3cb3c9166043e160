// /dev/kvm: what the host's KVM offers, and the way to a VM (Documentation/virt/kvm/api.rst,
// "system ioctls").
#ifndef CLEARVM_KVM_SYSTEM_H_
#define CLEARVM_KVM_SYSTEM_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "native/base/fd.h"
#include "native/base/result.h"
#include "native/kvm/cpuid.h"
#include "native/kvm/vm.h"

namespace clearvm::kvm {

inline constexpr char kDefaultDevice[] = "/dev/kvm";

class System {
 public:
  // Opens the device and checks its API version. Errors: ERR_KVM_MISSING (no such device, or no
  // driver behind it), ERR_KVM_PERMISSION, ERR_KVM_VERSION (not a KVM, or one of another API),
  // ERR_KVM_OPEN (anything else).
  static Result<System> Open(const std::string& path = kDefaultDevice);

  // The value of capability `cap` (KVM_CAP_*): 0 where it is missing, else mostly 1, for some a
  // limit.
  int CheckExtension(int cap) const;

  // Every CPUID leaf that KVM and the host's processor can give a guest. Errors: ERR_KVM_CPUID.
  Result<CpuidTable> SupportedCpuid() const;

  // The MSRs that make up a vCPU's state (KVM_GET_MSR_INDEX_LIST); a guest's CPUID may lack some.
  // Errors: ERR_KVM_MSRS.
  Result<std::vector<uint32_t>> MsrIndices() const;

  // A VM with nothing in it. Errors: ERR_KVM_CREATE_VM.
  Result<Vm> CreateVm() const;

  int fd() const { return fd_.get(); }
  // KVM_GET_API_VERSION; always 12 once Open has succeeded.
  int api_version() const { return api_version_; }

 private:
  System(UniqueFd fd, int api_version, size_t vcpu_mapping_size)
      : fd_(std::move(fd)), api_version_(api_version), vcpu_mapping_size_(vcpu_mapping_size) {}

  UniqueFd fd_;
  int api_version_;
  size_t vcpu_mapping_size_;  // KVM_GET_VCPU_MMAP_SIZE, bytes
};

}  // namespace clearvm::kvm

#endif  // CLEARVM_KVM_SYSTEM_H_
