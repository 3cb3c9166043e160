#include "native/kvm/system.h"

#include <fcntl.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <memory>

#include "native/base/linux_kvm.h"

namespace clearvm::kvm {
namespace {

// KVM reports at most this many entries (KVM_MAX_CPUID_ENTRIES), so that one call is always enough.
constexpr uint32_t kMaxCpuidEntries = 256;

Error OpenError(const std::string& path) {
  switch (errno) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
    case ENOTDIR:
      return SystemError(
          "ERR_KVM_MISSING", "open",
          path +
              " is not there: virtualization is missing, turned off in the firmware, or the module "
              "kvm_intel or kvm_amd is not loaded (run `clearvm doctor`)");
    case EACCES:
    case EPERM:
      return SystemError(
          "ERR_KVM_PERMISSION", "open",
          path +
              " may not be opened: run as root, or add the user to the group that owns it "
              "(usually `kvm`)");
    default:
      return SystemError("ERR_KVM_OPEN", "open", "cannot open " + path);
  }
}

}  // namespace

Result<System> System::Open(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd.valid()) return OpenError(path);
  const int version = ::ioctl(fd.get(), KVM_GET_API_VERSION, 0);
  if (version < 0) {
    return SystemError("ERR_KVM_VERSION", "ioctl(KVM_GET_API_VERSION)",
                       path + " is not a KVM device");
  }
  if (version != KVM_API_VERSION) {
    return Error{"ERR_KVM_VERSION", 0, "",
                 path + " speaks KVM API version " + std::to_string(version) + ", ClearVM needs " +
                     std::to_string(KVM_API_VERSION) + ": update the host's kernel"};
  }
  const int mapping_size = ::ioctl(fd.get(), KVM_GET_VCPU_MMAP_SIZE, 0);
  if (mapping_size < static_cast<int>(sizeof(kvm_run))) {
    return SystemError("ERR_KVM_VERSION", "ioctl(KVM_GET_VCPU_MMAP_SIZE)",
                       path + " does not tell the size of a vCPU's mapping");
  }
  return System(std::move(fd), version, static_cast<size_t>(mapping_size));
}

int System::CheckExtension(int cap) const {
  const int value = ::ioctl(fd_.get(), KVM_CHECK_EXTENSION, cap);
  return value < 0 ? 0 : value;
}

Result<CpuidTable> System::SupportedCpuid() const {
  const size_t bytes = sizeof(kvm_cpuid2) + kMaxCpuidEntries * sizeof(kvm_cpuid_entry2);
  auto buffer = std::make_unique<uint8_t[]>(bytes);
  auto* header = reinterpret_cast<kvm_cpuid2*>(buffer.get());
  header->nent = kMaxCpuidEntries;
  if (::ioctl(fd_.get(), KVM_GET_SUPPORTED_CPUID, header) != 0) {
    return SystemError("ERR_KVM_CPUID", "ioctl(KVM_GET_SUPPORTED_CPUID)",
                       "KVM does not tell which CPUID leaves it supports");
  }
  return CpuidTable(header->entries, header->entries + header->nent);
}

Result<std::vector<uint32_t>> System::MsrIndices() const {
  constexpr size_t kMost = 1024;
  std::vector<uint32_t> list(1 + kMost);  // struct kvm_msr_list
  list[0] = kMost;
  if (::ioctl(fd_.get(), KVM_GET_MSR_INDEX_LIST, list.data()) != 0) {
    return SystemError("ERR_KVM_MSRS", "ioctl(KVM_GET_MSR_INDEX_LIST)",
                       "KVM does not tell which MSRs a vCPU has");
  }
  return std::vector<uint32_t>(list.begin() + 1, list.begin() + 1 + list[0]);
}

Result<Vm> System::CreateVm() const {
  int fd;
  do {
    fd = ::ioctl(fd_.get(), KVM_CREATE_VM, 0);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) {
    return SystemError("ERR_KVM_CREATE_VM", "ioctl(KVM_CREATE_VM)", "KVM cannot create a VM");
  }
  return Vm(UniqueFd(fd), vcpu_mapping_size_);
}

}  // namespace clearvm::kvm
