// A machine's state, for templates and snapshots: all of it but the memory. The layout is that of
// the structures, KVM's among them: what reads it is as vmm/template.h says.
#include <algorithm>
#include <condition_variable>
#include <mutex>

#include "native/kvm/vcpu_state.h"
#include "native/vmm/machine.h"

namespace clearvm::vmm {
namespace {

constexpr size_t kMaxCpuid = 512;  // entries

// AMD-V keeps the task register without this bit, and VT-x with it. KVM shows it always, as VT-x
// wants it; put back on an emulated AMD-V, it costs the guest its I/O permission bitmap.
constexpr uint8_t kTssBusy = 2;

Error StateError(const char* what) {
  return Error{"ERR_MACHINE_STATE", 0, "", std::string("the saved machine: ") + what};
}

}  // namespace

Result<bool> Machine::Halted() const {
  for (const kvm::Vcpu& vcpu : vcpus_) {
    CLEARVM_ASSIGN(const kvm_mp_state state, vcpu.GetMpState());
    if (state.mp_state != KVM_MP_STATE_HALTED) return false;
  }
  return true;
}

// Each loop comes to a task of ours, saves its devices there, and waits.
class Machine::Parked {
 public:
  Parked(std::span<const std::unique_ptr<virtio::MmioTransport>> devices)
      : states_(devices.size()), results_(devices.size()) {
    std::vector<EventLoop*> loops;
    for (const auto& device : devices) {
      if (std::ranges::find(loops, device->loop()) == loops.end()) loops.push_back(device->loop());
    }
    waiting_ = loops.size();
    for (EventLoop* loop : loops) {
      loop->Post([this, loop, devices] {
        for (size_t i = 0; i < devices.size(); i++) {
          if (devices[i]->loop() == loop) results_[i] = devices[i]->Save(states_[i]);
        }
        std::unique_lock lock(mutex_);
        waiting_--;
        parked_++;
        changed_.notify_all();
        changed_.wait(lock, [this] { return released_; });
        parked_--;
        changed_.notify_all();
      });
    }
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return waiting_ == 0; });
  }
  ~Parked() {
    std::unique_lock lock(mutex_);
    released_ = true;
    changed_.notify_all();
    changed_.wait(lock, [this] { return parked_ == 0; });
  }

  Result<void> Write(ByteWriter& out) {
    for (size_t i = 0; i < states_.size(); i++) {
      if (!results_[i].ok()) return results_[i].error();
      out.PutBytes(states_[i].bytes());
    }
    return {};
  }

 private:
  std::vector<ByteWriter> states_;
  std::vector<Result<void>> results_;
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t waiting_ = 0;
  size_t parked_ = 0;
  bool released_ = false;
};

Result<void> Machine::Save(const kvm::System& system, ByteWriter& out,
                           std::shared_ptr<Parked>* parked) const {
  out.PutList(std::span<const kvm_cpuid_entry2>(cpuid_));
  CLEARVM_ASSIGN(const kvm_clock_data clock, vm_.GetClock());
  out.Put(clock.clock);

  // A vCPU as it comes from KVM, to tell which MSRs have changed.
  CLEARVM_ASSIGN(kvm::Vm empty, system.CreateVm());
  CLEARVM_RETURN_IF_ERROR(empty.CreateSplitIrqchip(1));
  CLEARVM_ASSIGN(kvm::Vcpu fresh, empty.CreateVcpu(0));
  CLEARVM_RETURN_IF_ERROR(fresh.SetCpuid(cpuid_));
  CLEARVM_ASSIGN(const std::vector<uint32_t> msrs, system.MsrIndices());
  for (const kvm::Vcpu& vcpu : vcpus_) {
    CLEARVM_ASSIGN(kvm::VcpuState state, kvm::SaveVcpu(vcpu, fresh, msrs));
    if (!kvm::IsIntel(cpuid_)) state.registers.sregs.tr.type &= ~kTssBusy;
    kvm::WriteVcpuState(state, out);
  }
  ioapic_->Save(out);
  auto waiting = std::make_shared<Parked>(devices_);
  CLEARVM_RETURN_IF_ERROR(waiting->Write(out));
  *parked = std::move(waiting);
  return {};
}

Result<void> Machine::LoadProcessors(ByteReader& in) {
  if (!kvm::CpuidFits(in.TakeList<kvm_cpuid_entry2>(kMaxCpuid), cpuid_)) {
    return StateError("this host's processor or KVM has other features, or another TSC rate");
  }
  clock_.clock = in.Take<uint64_t>();
  times_.clear();
  up_.clear();
  for (kvm::Vcpu& vcpu : vcpus_) {
    const kvm::VcpuState state = kvm::ReadVcpuState(in);
    if (!in.ok()) return StateError("it is cut short");
    CLEARVM_RETURN_IF_ERROR(kvm::LoadVcpu(vcpu, state));
    times_.push_back(kvm::VcpuTime(state));
    if (kvm::IsUp(state)) up_.push_back(vcpu.id());
  }
  return ioapic_->Restore(in);
}

Result<void> Machine::StartClocks() {
  for (size_t i = 0; i < times_.size(); i++) {
    CLEARVM_RETURN_IF_ERROR(kvm::SetVcpuTime(vcpus_[i], times_[i]));
    if (tsc_khz_ != 0 || times_[i].empty()) continue;
    tsc_khz_ = vcpus_[i].GetTscKhz();
    tsc_offset_ = times_[i].front().data - __builtin_ia32_rdtsc();  // KVM has just set it
  }
  return vm_.SetClock(clock_);
}

Machine::Tsc Machine::GuestTsc() const {
  if (tsc_khz_ == 0) return {};
  return {__builtin_ia32_rdtsc() + tsc_offset_, tsc_khz_};
}

Result<void> Machine::RestoreDevices(ByteReader& in) {
  for (const auto& device : devices_) CLEARVM_RETURN_IF_ERROR(device->Restore(in));
  if (!in.Finished()) return StateError("it is not of these devices");
  timeline_->Stamp(CLEARVM_TIME_RESTORED);
  return {};
}

Result<void> Machine::Nudge() {
  for (const auto& device : devices_) device->Nudge();
  for (const uint32_t id : up_) CLEARVM_RETURN_IF_ERROR(vm_.Unhalt(id));
  return {};
}

}  // namespace clearvm::vmm
