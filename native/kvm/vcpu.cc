#include "native/kvm/vcpu.h"

#include <sys/ioctl.h>

#include <atomic>
#include <cerrno>
#include <memory>

namespace clearvm::kvm {
namespace {

constexpr uint64_t kCr0ProtectionEnable = 1ull << 0;
constexpr uint64_t kCr0MonitorCoprocessor = 1ull << 1;
constexpr uint64_t kCr0ExtensionType = 1ull << 4;
constexpr uint64_t kCr0NumericError = 1ull << 5;
constexpr uint64_t kCr0Paging = 1ull << 31;
constexpr uint64_t kCr4PhysicalAddressExtension = 1ull << 5;
constexpr uint64_t kEferLongModeEnable = 1ull << 8;
constexpr uint64_t kEferLongModeActive = 1ull << 10;
constexpr uint64_t kRflagsReserved = 1ull << 1;  // always 1
constexpr uint64_t kApicBaseAddress = 0xfee0'0000;
constexpr uint64_t kApicBaseEnable = 1ull << 11;
constexpr uint64_t kApicBaseBootProcessor = 1ull << 8;

// Segment types, Intel SDM volume 3 section 3.4.5.1 and 3.5.
constexpr uint8_t kTypeCode = 0xb;     // execute, read, accessed
constexpr uint8_t kTypeData = 0x3;     // read, write, accessed
constexpr uint8_t kTypeBusyTss = 0xb;  // 64-bit
constexpr uint8_t kTypeLdt = 0x2;

Error StateError(const char* name, uint32_t id) {
  return SystemError("ERR_KVM_VCPU_STATE", std::string("ioctl(") + name + ")",
                     "KVM refuses the state of vCPU " + std::to_string(id));
}

template <typename T>
Result<T> Get(const Vcpu& vcpu, unsigned long request, const char* name) {
  T state = {};
  if (::ioctl(vcpu.fd(), request, &state) != 0) return StateError(name, vcpu.id());
  return state;
}

template <typename T>
Result<void> Set(const Vcpu& vcpu, unsigned long request, const char* name, const T& state) {
  if (::ioctl(vcpu.fd(), request, &state) != 0) return StateError(name, vcpu.id());
  return {};
}

kvm_segment FlatSegment(uint16_t selector, bool code) {
  kvm_segment segment = {};
  segment.limit = 0xffff'ffff;
  segment.selector = selector;
  segment.type = code ? kTypeCode : kTypeData;
  segment.present = 1;
  segment.db = code ? 0 : 1;
  segment.s = 1;
  segment.l = code ? 1 : 0;
  segment.g = 1;
  return segment;
}

}  // namespace

Result<Vcpu::Event> Vcpu::Run() {
  for (;;) {
    if (::ioctl(fd_.get(), KVM_RUN, 0) == 0) return Event::kExit;
    if (errno == EINTR) return Event::kInterrupted;
    // A waiting application processor has been woken by INIT or SIPI: nothing has run yet.
    if (errno == EAGAIN) continue;
    return SystemError("ERR_KVM_RUN", "ioctl(KVM_RUN)",
                       "KVM cannot run vCPU " + std::to_string(id_));
  }
}

void Vcpu::RequestExit() {
  std::atomic_ref<uint8_t>(run().immediate_exit).store(1, std::memory_order_relaxed);
}

void Vcpu::ClearExitRequest() {
  std::atomic_ref<uint8_t>(run().immediate_exit).store(0, std::memory_order_relaxed);
}

std::span<uint8_t> Vcpu::io_data() {
  const auto& io = run().io;
  const uint64_t length = static_cast<uint64_t>(io.size) * io.count;
  if (io.data_offset > mapping_.size() || length > mapping_.size() - io.data_offset) return {};
  return mapping_.bytes().subspan(io.data_offset, length);
}

Result<void> Vcpu::EnterLongMode(const LongModeEntry& entry) {
  // Written whole rather than read, changed and written back: that saves an ioctl on every start.
  kvm_sregs sregs = {};
  sregs.cs = FlatSegment(entry.code_selector, true);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = FlatSegment(entry.data_selector, false);
  sregs.tr.type = kTypeBusyTss;  // VT-x refuses to enter a guest without a task register
  sregs.tr.present = 1;
  sregs.tr.limit = 0xffff;
  sregs.ldt.type = kTypeLdt;
  sregs.ldt.unusable = 1;
  sregs.gdt.base = entry.gdt_address;
  sregs.gdt.limit = entry.gdt_limit;
  sregs.cr0 = kCr0ProtectionEnable | kCr0MonitorCoprocessor | kCr0ExtensionType | kCr0NumericError |
              kCr0Paging;
  sregs.cr3 = entry.cr3;
  sregs.cr4 = kCr4PhysicalAddressExtension;
  sregs.efer = kEferLongModeEnable | kEferLongModeActive;
  sregs.apic_base = kApicBaseAddress | kApicBaseEnable | (id_ == 0 ? kApicBaseBootProcessor : 0);
  CLEARVM_RETURN_IF_ERROR(SetSregs(sregs));
  kvm_regs regs = {};
  regs.rip = entry.rip;
  regs.rsp = entry.rsp;
  regs.rsi = entry.rsi;
  regs.rflags = kRflagsReserved;
  return SetRegs(regs);
}

Result<void> Vcpu::EnterRealMode(uint16_t ip, uint16_t sp) {
  CLEARVM_ASSIGN(kvm_sregs sregs, GetSregs());
  for (kvm_segment* segment : {&sregs.cs, &sregs.ds, &sregs.es, &sregs.fs, &sregs.gs, &sregs.ss}) {
    segment->base = 0;
    segment->selector = 0;
  }
  CLEARVM_RETURN_IF_ERROR(SetSregs(sregs));
  kvm_regs regs = {};
  regs.rip = ip;
  regs.rsp = sp;
  regs.rflags = kRflagsReserved;
  return SetRegs(regs);
}

Result<kvm_regs> Vcpu::GetRegs() const {
  return Get<kvm_regs>(*this, KVM_GET_REGS, "KVM_GET_REGS");
}

Result<void> Vcpu::SetRegs(const kvm_regs& regs) {
  return Set(*this, KVM_SET_REGS, "KVM_SET_REGS", regs);
}

Result<kvm_sregs> Vcpu::GetSregs() const {
  return Get<kvm_sregs>(*this, KVM_GET_SREGS, "KVM_GET_SREGS");
}

Result<void> Vcpu::SetSregs(const kvm_sregs& sregs) {
  return Set(*this, KVM_SET_SREGS, "KVM_SET_SREGS", sregs);
}

Result<kvm_fpu> Vcpu::GetFpu() const { return Get<kvm_fpu>(*this, KVM_GET_FPU, "KVM_GET_FPU"); }

Result<void> Vcpu::SetFpu(const kvm_fpu& fpu) {
  return Set(*this, KVM_SET_FPU, "KVM_SET_FPU", fpu);
}

Result<kvm_lapic_state> Vcpu::GetLapic() const {
  return Get<kvm_lapic_state>(*this, KVM_GET_LAPIC, "KVM_GET_LAPIC");
}

Result<void> Vcpu::SetLapic(const kvm_lapic_state& lapic) {
  return Set(*this, KVM_SET_LAPIC, "KVM_SET_LAPIC", lapic);
}

Result<kvm_mp_state> Vcpu::GetMpState() const {
  return Get<kvm_mp_state>(*this, KVM_GET_MP_STATE, "KVM_GET_MP_STATE");
}

Result<void> Vcpu::SetMpState(const kvm_mp_state& state) {
  return Set(*this, KVM_SET_MP_STATE, "KVM_SET_MP_STATE", state);
}

Result<void> Vcpu::SetCpuid(const CpuidTable& table) {
  const size_t bytes = sizeof(kvm_cpuid2) + table.size() * sizeof(kvm_cpuid_entry2);
  auto buffer = std::make_unique<uint8_t[]>(bytes);
  auto* header = reinterpret_cast<kvm_cpuid2*>(buffer.get());
  header->nent = static_cast<uint32_t>(table.size());
  for (size_t i = 0; i < table.size(); ++i) header->entries[i] = table[i];
  if (::ioctl(fd_.get(), KVM_SET_CPUID2, header) != 0) return StateError("KVM_SET_CPUID2", id_);
  return {};
}

Result<std::vector<kvm_msr_entry>> Vcpu::GetMsrs(std::span<const uint32_t> indices) const {
  const size_t bytes = sizeof(kvm_msrs) + indices.size() * sizeof(kvm_msr_entry);
  auto buffer = std::make_unique<uint8_t[]>(bytes);
  auto* header = reinterpret_cast<kvm_msrs*>(buffer.get());
  header->nmsrs = static_cast<uint32_t>(indices.size());
  for (size_t i = 0; i < indices.size(); ++i) header->entries[i].index = indices[i];
  const int done = ::ioctl(fd_.get(), KVM_GET_MSRS, header);
  if (done < 0) return StateError("KVM_GET_MSRS", id_);
  if (static_cast<size_t>(done) != indices.size()) {
    return Error{"ERR_KVM_VCPU_STATE", 0, "ioctl(KVM_GET_MSRS)",
                 "vCPU " + std::to_string(id_) + " has no MSR " + std::to_string(indices[done])};
  }
  return std::vector<kvm_msr_entry>(header->entries, header->entries + indices.size());
}

Result<void> Vcpu::SetMsrs(std::span<const kvm_msr_entry> msrs) {
  const size_t bytes = sizeof(kvm_msrs) + msrs.size() * sizeof(kvm_msr_entry);
  auto buffer = std::make_unique<uint8_t[]>(bytes);
  auto* header = reinterpret_cast<kvm_msrs*>(buffer.get());
  header->nmsrs = static_cast<uint32_t>(msrs.size());
  for (size_t i = 0; i < msrs.size(); ++i) header->entries[i] = msrs[i];
  const int done = ::ioctl(fd_.get(), KVM_SET_MSRS, header);
  if (done < 0) return StateError("KVM_SET_MSRS", id_);
  if (static_cast<size_t>(done) != msrs.size()) {
    return Error{
        "ERR_KVM_VCPU_STATE", 0, "ioctl(KVM_SET_MSRS)",
        "vCPU " + std::to_string(id_) + " does not take MSR " + std::to_string(msrs[done].index)};
  }
  return {};
}

uint32_t Vcpu::GetTscKhz() const {
  const int khz = ::ioctl(fd_.get(), KVM_GET_TSC_KHZ, 0);
  return khz < 0 ? 0 : static_cast<uint32_t>(khz);
}

Result<void> Vcpu::InjectNmi() {
  if (::ioctl(fd_.get(), KVM_NMI, 0) != 0) return StateError("KVM_NMI", id_);
  return {};
}

}  // namespace clearvm::kvm
