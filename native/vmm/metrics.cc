// What the machine counts, as text: Documentation/virt/kvm/api.rst, KVM_GET_STATS_FD.
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstring>

#include "native/base/fd.h"
#include "native/base/linux_kvm.h"
#include "native/vmm/machine.h"

namespace clearvm::vmm {
namespace {

// Reads exactly `size` bytes at `offset`; an empty vector where there are not as many.
std::vector<uint8_t> ReadAt(int fd, size_t size, off_t offset) {
  std::vector<uint8_t> bytes(size);
  if (::pread(fd, bytes.data(), size, offset) != static_cast<ssize_t>(size)) bytes.clear();
  return bytes;
}

// Every single-valued statistic behind `fd` that is not 0.
std::string ReadStatistics(int fd) {
  const std::vector<uint8_t> head = ReadAt(fd, sizeof(kvm_stats_header), 0);
  if (head.empty()) return "";
  kvm_stats_header header;
  std::memcpy(&header, head.data(), sizeof header);
  const size_t stride = sizeof(kvm_stats_desc) + header.name_size;
  const std::vector<uint8_t> descriptors = ReadAt(fd, stride * header.num_desc, header.desc_offset);
  if (descriptors.empty()) return "";
  std::string text;
  for (uint32_t i = 0; i < header.num_desc; i++) {
    kvm_stats_desc descriptor;
    std::memcpy(&descriptor, descriptors.data() + i * stride, sizeof descriptor);
    if (descriptor.size != 1) continue;
    const std::vector<uint8_t> bytes = ReadAt(fd, 8, header.data_offset + descriptor.offset);
    uint64_t value = 0;
    if (!bytes.empty()) std::memcpy(&value, bytes.data(), sizeof value);
    if (value == 0) continue;
    const char* name =
        reinterpret_cast<const char*>(descriptors.data() + i * stride + sizeof descriptor);
    text.append("kvm.").append(name, ::strnlen(name, header.name_size));
    text.append(" ").append(std::to_string(value)).append("\n");
  }
  return text;
}

}  // namespace

// On the vCPU's own thread: from any other, the ioctl waits until the vCPU leaves the guest.
void Machine::ReadKvmStatistics(const kvm::Vcpu& vcpu) {
  const UniqueFd fd(::ioctl(vcpu.fd(), KVM_GET_STATS_FD, nullptr));
  std::string text = CountersText("init.");
  if (fd.valid()) text += ReadStatistics(fd.get());
  std::lock_guard lock(statistics_mutex_);
  if (statistics_at_init_.empty()) statistics_at_init_ = std::move(text);
}

std::string Machine::CountersText(const char* prefix) const {
  static constexpr const char* kNames[kCounters] = {"exits.port", "exits.mmio", "exits.eoi",
                                                    "exits.interrupted"};
  std::string text;
  for (size_t i = 0; i < kCounters; i++) {
    text.append(prefix).append(kNames[i]).append(" ");
    text.append(std::to_string(counters_[i].load())).append("\n");
  }
  return text;
}

std::string Machine::Metrics() const {
  std::string text = CountersText("");
  text += "memory.guest " + std::to_string(memory_.size()) + "\n";
  std::lock_guard lock(statistics_mutex_);
  return text + statistics_at_init_;
}

}  // namespace clearvm::vmm
