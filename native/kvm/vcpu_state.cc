#include "native/kvm/vcpu_state.h"

#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <string>

namespace clearvm::kvm {
namespace {

constexpr size_t kMaxMsrs = 512;

constexpr uint32_t kMsrTsc = 0x10;
constexpr uint32_t kMsrTscDeadline = 0x6e0;
// Writing one of these has KVM write the wall clock into guest memory. The guest reads it when it
// boots, and never again.
constexpr std::array<uint32_t, 2> kWallClocks = {0x11, 0x4b56'4d00};

bool IsTime(const kvm_msr_entry& msr) {
  return msr.index == kMsrTsc || msr.index == kMsrTscDeadline;
}

Error StateError(const char* name, uint32_t id) {
  return SystemError("ERR_KVM_VCPU_STATE", std::string("ioctl(") + name + ")",
                     "KVM refuses the state of vCPU " + std::to_string(id) + " (" + name + ")");
}

// One ioctl each; the pairs of GET and SET take the same structure.
template <typename T>
Result<void> Call(const Vcpu& vcpu, unsigned long request, const char* name, T& state) {
  if (::ioctl(vcpu.fd(), request, &state) != 0) return StateError(name, vcpu.id());
  return {};
}
#define CLEARVM_VCPU_CALL(vcpu, request, state) \
  CLEARVM_RETURN_IF_ERROR(Call(vcpu, request, #request, state))

std::vector<kvm_msr_entry> SaveMsrs(const Vcpu& vcpu, const Vcpu& fresh,
                                    std::span<const uint32_t> indices) {
  std::vector<kvm_msr_entry> msrs;
  const auto add = [&](uint32_t index, bool always) {
    // KVM lists MSRs that this guest's CPUID does not give it.
    const auto value = vcpu.GetMsrs({&index, 1});
    if (!value.ok()) return;
    const auto reset = fresh.GetMsrs({&index, 1});
    if (!always && reset.ok() && reset.value()[0].data == value.value()[0].data) return;
    msrs.push_back(value.value()[0]);
  };
  add(kMsrTsc, true);
  for (uint32_t index : indices) {
    if (index == kMsrTsc || index == kMsrTscDeadline ||
        std::ranges::find(kWallClocks, index) != kWallClocks.end()) {
      continue;
    }
    add(index, false);
  }
  // Behind it: it is a time of that TSC.
  add(kMsrTscDeadline, true);
  return msrs;
}

}  // namespace

Result<VcpuState> SaveVcpu(const Vcpu& vcpu, const Vcpu& fresh, std::span<const uint32_t> indices) {
  VcpuState state{};
  VcpuState::Registers& now = state.registers;
  // First, because it lets KVM act on an INIT or SIPI that is pending.
  CLEARVM_VCPU_CALL(vcpu, KVM_GET_MP_STATE, now.mp_state);
  CLEARVM_VCPU_CALL(vcpu, KVM_GET_REGS, now.regs);
  CLEARVM_VCPU_CALL(vcpu, KVM_GET_SREGS, now.sregs);
  CLEARVM_VCPU_CALL(vcpu, KVM_GET_XCRS, now.xcrs);
  CLEARVM_VCPU_CALL(vcpu, KVM_GET_XSAVE, now.xsave);
  CLEARVM_VCPU_CALL(vcpu, KVM_GET_DEBUGREGS, now.debugregs);
  CLEARVM_VCPU_CALL(vcpu, KVM_GET_LAPIC, now.lapic);
  CLEARVM_VCPU_CALL(vcpu, KVM_GET_VCPU_EVENTS, now.events);
  state.msrs = SaveMsrs(vcpu, fresh, indices);
  return state;
}

Result<void> LoadVcpu(Vcpu& vcpu, const VcpuState& state) {
  const VcpuState::Registers& then = state.registers;
  CLEARVM_VCPU_CALL(vcpu, KVM_SET_MP_STATE, then.mp_state);
  CLEARVM_VCPU_CALL(vcpu, KVM_SET_REGS, then.regs);
  CLEARVM_VCPU_CALL(vcpu, KVM_SET_SREGS, then.sregs);  // the mode of the local APIC, too
  // A host without XSAVE gives none, and takes none.
  if (then.xcrs.nr_xcrs != 0) CLEARVM_VCPU_CALL(vcpu, KVM_SET_XCRS, then.xcrs);
  CLEARVM_VCPU_CALL(vcpu, KVM_SET_XSAVE, then.xsave);
  CLEARVM_VCPU_CALL(vcpu, KVM_SET_DEBUGREGS, then.debugregs);
  CLEARVM_VCPU_CALL(vcpu, KVM_SET_LAPIC, then.lapic);
  std::vector<kvm_msr_entry> msrs = state.msrs;
  std::erase_if(msrs, IsTime);
  CLEARVM_RETURN_IF_ERROR(vcpu.SetMsrs(msrs));
  // Last: setting registers takes back pending exceptions.
  CLEARVM_VCPU_CALL(vcpu, KVM_SET_VCPU_EVENTS, then.events);
  return {};
}

bool IsUp(const VcpuState& state) {
  const uint32_t mp_state = state.registers.mp_state.mp_state;
  return mp_state == KVM_MP_STATE_RUNNABLE || mp_state == KVM_MP_STATE_HALTED;
}

std::vector<kvm_msr_entry> VcpuTime(const VcpuState& state) {
  std::vector<kvm_msr_entry> time;
  std::ranges::copy_if(state.msrs, std::back_inserter(time), IsTime);
  return time;
}

Result<void> SetVcpuTime(Vcpu& vcpu, std::span<const kvm_msr_entry> time) {
  // KVM takes a TSC within a second of what it expects for an attempt to synchronize vCPUs, and
  // gives the vCPU what it expects: zero, for the first of a new VM. So it is led to expect
  // another.
  if (vcpu.id() == 0 && !time.empty() && time.front().index == kMsrTsc) {
    kvm_msr_entry far = time.front();
    far.data += 1ull << 50;
    CLEARVM_RETURN_IF_ERROR(vcpu.SetMsrs({&far, 1}));
  }
  return vcpu.SetMsrs(time);
}

void WriteVcpuState(const VcpuState& state, ByteWriter& out) {
  out.Put(state.registers);
  out.PutList(std::span<const kvm_msr_entry>(state.msrs));
}

VcpuState ReadVcpuState(ByteReader& in) {
  VcpuState state{};
  state.registers = in.Take<VcpuState::Registers>();
  state.msrs = in.TakeList<kvm_msr_entry>(kMaxMsrs);
  return state;
}

}  // namespace clearvm::kvm
