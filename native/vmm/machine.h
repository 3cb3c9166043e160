// One virtual machine: memory, interrupt controller, devices, vCPUs and their threads.
#ifndef CLEARVM_VMM_MACHINE_H_
#define CLEARVM_VMM_MACHINE_H_

#include <pthread.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "native/kvm/ioapic.h"
#include "native/kvm/memory.h"
#include "native/kvm/system.h"
#include "native/virtio/mmio.h"
#include "native/vmm/guest_image.h"
#include "native/vmm/kernel_log.h"
#include "native/vmm/timeline.h"
#include "native/vmm/vm_end.h"

namespace clearvm::vmm {

// Set up on one thread, in the order of the members; then Start.
class Machine {
 public:
  // Takes `vm`, which is empty, and `image` over.
  static Result<std::unique_ptr<Machine>> Create(const kvm::System& system, kvm::Vm vm,
                                                 GuestImage image, const MachineConfig& config,
                                                 Timeline* timeline, KernelLog* log);
  // Stops the vCPUs and waits for their threads.
  ~Machine();

  // The device's thread is whoever runs `loop`. MachineConfig::devices times.
  Result<void> AddDevice(std::unique_ptr<virtio::Device> device, EventLoop* loop);

  // Runs every vCPU on a thread of its own. `on_end` is called (on such a thread) when the guest
  // has ended by itself; vCPU threads confine themselves to their system calls if `confine`.
  Result<void> Start(bool confine, OnVmEnd on_end);

  // Brings all vCPUs out of the guest, and returns when they are; Resume lets them go on.
  // Idempotent.
  void Pause();
  void Resume();

  // "name value" lines: exits by kind, and KVM's statistics as they stood at init's start if they
  // were asked for.
  std::string Metrics() const;

 private:
  enum Counter { kPortExits, kMmioExits, kEoiExits, kInterruptedExits, kCounters };

  Machine(kvm::Vm vm, kvm::GuestMemory memory, const MachineConfig& config, Timeline* timeline,
          KernelLog* log);
  static void* VcpuThread(void* argument);
  std::optional<VmEnd> RunVcpu(kvm::Vcpu& vcpu);
  std::optional<VmEnd> HandlePort(kvm::Vcpu& vcpu);
  std::optional<VmEnd> HandleMmio(kvm_run& run);
  std::optional<VmEnd> WriteMmio(uint64_t address, std::span<const uint8_t> data);
  std::optional<VmEnd> TakeCollectedWrites();
  Result<void> ShareRegisters(const kvm::System& system);
  void WaitWhilePaused();
  void KickVcpus();
  void ReadKvmStatistics(const kvm::Vcpu& vcpu);
  std::string CountersText(const char* prefix) const;

  MachineConfig config_;
  Timeline* timeline_;
  KernelLog* log_;
  kvm::GuestMemory memory_;  // outlives the VM
  UniqueMapping registers_;  // of all devices; the guest reads them without an exit
  kvm::Vm vm_;
  std::unique_ptr<kvm::Ioapic> ioapic_;
  std::vector<std::unique_ptr<virtio::MmioTransport>> devices_;
  std::vector<kvm::Vcpu> vcpus_;
  std::mutex collected_mutex_;
  kvm_coalesced_mmio_ring* collected_ =
      nullptr;  // writes that KVM has collected; nullptr: it collects none

  OnVmEnd on_end_;
  bool confine_ = false;
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
  size_t running_ = 0;  // vCPU threads that are not waiting in a pause

  std::array<std::atomic<uint64_t>, kCounters> counters_{};
  mutable std::mutex statistics_mutex_;
  std::string statistics_at_init_;
};

}  // namespace clearvm::vmm

#endif  // CLEARVM_VMM_MACHINE_H_
