// Everything that a vCPU is, apart from its CPUID: read out of a paused one, and put into a new one
// (Documentation/virt/kvm/api.rst, "vcpu ioctls").
#ifndef CLEARVM_KVM_VCPU_STATE_H_
#define CLEARVM_KVM_VCPU_STATE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "native/base/bytes.h"
#include "native/base/linux_kvm.h"
#include "native/base/result.h"
#include "native/kvm/vcpu.h"

namespace clearvm::kvm {

struct VcpuState {
  struct Registers {
    kvm_regs regs;
    kvm_sregs sregs;
    kvm_xcrs xcrs;
    kvm_debugregs debugregs;
    kvm_vcpu_events events;
    kvm_mp_state mp_state;
    kvm_lapic_state lapic;
    kvm_xsave xsave;  // 4 KiB: no state of a guest of ours (kvm/cpuid.cc) lies beyond
  };
  Registers registers;
  std::vector<kvm_msr_entry> msrs;
};

// The state of `vcpu`, whose thread waits outside of KVM_RUN. `fresh` is a vCPU of another VM with
// the same CPUID, in which nothing has run: an MSR that is the same there need not be restored.
// `indices`: System::MsrIndices. Errors: ERR_KVM_VCPU_STATE.
Result<VcpuState> SaveVcpu(const Vcpu& vcpu, const Vcpu& fresh, std::span<const uint32_t> indices);

// Gives `vcpu`, which has its CPUID and has not run, all of `state` but its time, which SetVcpuTime
// sets, at once or much later; then it can go on. Errors: ERR_KVM_VCPU_STATE; the vCPU is of no use
// then.
Result<void> LoadVcpu(Vcpu& vcpu, const VcpuState& state);

// Whether it has come up: it runs, or halts.
bool IsUp(const VcpuState& state);

// What goes by the clock: the TSC, and the deadline that the local APIC's timer has by it.
std::vector<kvm_msr_entry> VcpuTime(const VcpuState& state);
// Of vCPU 0 first: the others' TSCs are synchronized with it. Errors: Vcpu::SetMsrs'.
Result<void> SetVcpuTime(Vcpu& vcpu, std::span<const kvm_msr_entry> time);

// As bytes. What was read is unchecked: it is KVM that judges it.
void WriteVcpuState(const VcpuState& state, ByteWriter& out);
VcpuState ReadVcpuState(ByteReader& in);

}  // namespace clearvm::kvm

#endif  // CLEARVM_KVM_VCPU_STATE_H_
