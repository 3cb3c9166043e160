// One virtual machine: memory, interrupt controller, devices, vCPUs and their threads.
#ifndef CLEARVM_VMM_MACHINE_H_
#define CLEARVM_VMM_MACHINE_H_

#include <pthread.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "native/base/bytes.h"
#include "native/jail/seccomp.h"
#include "native/kvm/ioapic.h"
#include "native/kvm/memory.h"
#include "native/kvm/system.h"
#include "native/protocol/agent.h"
#include "native/virtio/mmio.h"
#include "native/vmm/guest_image.h"
#include "native/vmm/kernel_log.h"
#include "native/vmm/timeline.h"
#include "native/vmm/vm_end.h"

namespace clearvm::vmm {

// Set up on one thread, in the order of the members; then Start.
class Machine {
 public:
  // Takes `vm`, which is empty, and `memory` over.
  static Result<std::unique_ptr<Machine>> Create(const kvm::System& system, kvm::Vm vm,
                                                 kvm::GuestMemory memory,
                                                 const MachineConfig& config, Timeline* timeline,
                                                 KernelLog* log);
  // Stops the vCPUs and waits for their threads.
  ~Machine();

  // Has the boot processor start with the kernel that was loaded.
  Result<void> EnterKernel(const boot::BootEntry& entry);
  // Instead: has it all go on from what Save has written. First the vCPUs, which then stand still
  // in time, until StartClocks has their clocks go on; the devices when all are added. Errors:
  // ERR_MACHINE_STATE, and those of KVM and of the devices.
  Result<void> LoadProcessors(ByteReader& in);
  Result<void> StartClocks();
  Result<void> RestoreDevices(ByteReader& in);
  // Raises all devices' interrupts, and has all vCPUs look again at what they halt for: a VM that
  // was not at rest may have had some of it under way. A vCPU that another one had kicked before
  // it came to its HLT is the worst: no state that KVM tells has that, and it may have its
  // interrupts off. Errors: ERR_KVM_IRQ.
  Result<void> Nudge();

  // The guest's TSC now, and its rate; zeroes in a VM that was not restored.
  struct Tsc {
    uint64_t now;
    uint64_t khz;
  };
  Tsc GuestTsc() const;

  // The device's thread is whoever runs `loop`. MachineConfig::devices times.
  Result<void> AddDevice(std::unique_ptr<virtio::Device> device, EventLoop* loop);

  // Runs every vCPU on a thread of its own. `on_end` is called (on such a thread) when the guest
  // has ended by itself.
  Result<void> Start(jail::Confinement confinement, OnVmEnd on_end);

  // Brings all vCPUs out of the guest, and returns when they are; Resume lets them go on.
  // Idempotent.
  void Pause();
  void Resume();

  // Stops the vCPUs for want of processor time, or lets them go on; does not wait for it. A pause
  // goes on regardless.
  void SetThrottled(bool throttled);

  // While paused. Whether every vCPU waits for an interrupt.
  Result<bool> Halted() const;
  // Devices that wait, so that nothing but the caller touches the guest's memory. They go on when
  // it is destroyed.
  class Parked;
  // While paused: everything but the memory. `parked` keeps the devices where they were saved.
  // Errors: ERR_DEVICE_BUSY (try again later, without it), KVM's, the devices'.
  Result<void> Save(const kvm::System& system, ByteWriter& out,
                    std::shared_ptr<Parked>* parked) const;

  // A place that only init reaches, and only when it was asked to: the next time that it writes to
  // CLEARVM_PORT_IO_SNAPSHOT its vCPU stops behind that, until Resume, and `at_point` is called, on
  // its thread. Any thread.
  void ArmPoint(std::function<void()> at_point);
  void DisarmPoint();
  // What init reads from CLEARVM_PORT_IO_IDENTITY then: struct clearvm_renewal, whose times are
  // filled in when it does, and `spec` behind it. While paused.
  void SetRenewal(const clearvm_renewal& renewal, std::span<const uint8_t> spec);
  // Has Start leave the vCPUs paused.
  void StartPaused() { paused_ = true; }
  const kvm::GuestMemory& memory() const { return memory_; }
  // What the guest has at kvm::kWindowStart, to read only: all zeroes until somebody maps something
  // there. Empty: it has nothing there.
  std::span<uint8_t> window() const { return window_; }

  // "name value" lines: exits by kind, and KVM's statistics as they stood at init's start if they
  // were asked for.
  std::string Metrics() const;

 private:
  enum Counter { kPortExits, kMmioExits, kEoiExits, kInterruptedExits, kCounters };

  Machine(kvm::Vm vm, kvm::GuestMemory memory, const MachineConfig& config, Timeline* timeline,
          KernelLog* log);
  static void* VcpuThread(void* argument);
  Result<void> StartVcpu(size_t vcpu);
  Result<void> ConfineVcpu(size_t vcpu);
  std::optional<VmEnd> RunVcpu(kvm::Vcpu& vcpu);
  std::optional<VmEnd> HandlePort(kvm::Vcpu& vcpu);
  void StopAtPoint(kvm::Vcpu& vcpu);
  void ReadRenewal(std::span<uint8_t> data);
  std::optional<VmEnd> HandleMmio(kvm_run& run);
  std::optional<VmEnd> WriteMmio(uint64_t address, std::span<const uint8_t> data);
  std::optional<VmEnd> TakeCollectedWrites();
  Result<void> ShareRegisters(const kvm::System& system);
  // `vcpu`: the thread's, where it may have come to the point.
  void WaitWhilePaused(const kvm::Vcpu* vcpu);
  void KickVcpus();
  void ReadKvmStatistics(const kvm::Vcpu& vcpu);
  std::string CountersText(const char* prefix) const;

  MachineConfig config_;
  Timeline* timeline_;
  KernelLog* log_;
  kvm::GuestMemory memory_;  // outlives the VM
  UniqueMapping registers_;  // of all devices; the guest reads them without an exit
  std::span<uint8_t> window_;
  UniqueFd swallowed_;  // an eventfd that nobody reads: writes without a meaning to us
  kvm::Vm vm_;
  kvm::CpuidTable cpuid_;                          // of the boot processor
  kvm_clock_data clock_{};                         // that LoadProcessors has read
  std::vector<std::vector<kvm_msr_entry>> times_;  // and each vCPU's
  std::vector<uint32_t> up_;                       // and which have come up
  uint64_t tsc_khz_ = 0;                           // once it is restored
  uint64_t tsc_offset_ = 0;                        // from the host's TSC to the guest's
  std::unique_ptr<kvm::Ioapic> ioapic_;
  std::vector<std::unique_ptr<virtio::MmioTransport>> devices_;
  std::vector<kvm::Vcpu> vcpus_;
  std::mutex collected_mutex_;
  kvm_coalesced_mmio_ring* collected_ =
      nullptr;  // writes that KVM has collected; nullptr: it collects none
  // The guest has its devices still to find. Each range whose writes are to be collected takes KVM
  // a grace period to set up, and what is restored does not write there any more.
  bool probing_ = false;

  OnVmEnd on_end_;
  jail::Confinement confinement_ = jail::Confinement::kNone;
  std::vector<pthread_t> threads_;
  struct ThreadArgument {
    Machine* machine;
    size_t vcpu;
  };
  std::vector<ThreadArgument> thread_arguments_;

  std::atomic<bool> stopping_{false};
  std::mutex pause_mutex_;
  std::condition_variable pause_changed_;
  bool paused_ = false;
  bool throttled_ = false;
  std::optional<Result<void>> started_;  // how it went to start the others
  size_t running_ = 0;                   // vCPU threads that are not waiting in a pause
  // Under pause_mutex_:
  std::function<void()> at_point_;         // armed
  const kvm::Vcpu* stopped_at_ = nullptr;  // the vCPU that has come to the point
  std::vector<uint8_t> renewal_;
  size_t renewal_read_ = 0;  // bytes

  std::array<std::atomic<uint64_t>, kCounters> counters_{};
  mutable std::mutex statistics_mutex_;
  std::string statistics_at_init_;
};

}  // namespace clearvm::vmm

#endif  // CLEARVM_VMM_MACHINE_H_
