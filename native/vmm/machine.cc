#include "native/vmm/machine.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "native/jail/seccomp.h"
#include "native/kvm/msrs.h"
#include "native/vmm/command_line.h"

namespace clearvm::vmm {
namespace {

// Interrupts KVM_RUN; its handler does nothing.
constexpr int kKickSignal = SIGUSR1;

constexpr uint32_t kRegisterSlot = 8;  // behind those of RAM

Result<UniqueFd> NewEventFd() {
  UniqueFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd.valid()) return SystemError("ERR_VMM", "eventfd", "cannot make a device's interrupt");
  return fd;
}

}  // namespace

Machine::Machine(kvm::Vm vm, kvm::GuestMemory memory, const MachineConfig& config,
                 Timeline* timeline, KernelLog* log)
    : config_(config),
      timeline_(timeline),
      log_(log),
      memory_(std::move(memory)),
      vm_(std::move(vm)) {}

Result<std::unique_ptr<Machine>> Machine::Create(const kvm::System& system, kvm::Vm vm,
                                                 kvm::GuestMemory memory,
                                                 const MachineConfig& config, Timeline* timeline,
                                                 KernelLog* log) {
  std::unique_ptr<Machine> machine(
      new Machine(std::move(vm), std::move(memory), config, timeline, log));
  Machine* self = machine.get();
  CLEARVM_RETURN_IF_ERROR(self->vm_.SetTssAddress());
  // The IOAPIC is set up by dozens of accesses when it is KVM's and by a few when it is ours
  // (docs/decisions).
  const uint32_t pins = DeviceIrq(config.devices);
  CLEARVM_RETURN_IF_ERROR(self->vm_.CreateSplitIrqchip(pins));
  self->vm_.DisablePmu();
  self->ioapic_ = std::make_unique<kvm::Ioapic>(
      pins,
      [self](std::span<const kvm::MsiRoute> routes) { return self->vm_.SetMsiRoutes(routes); });
  CLEARVM_RETURN_IF_ERROR(self->vm_.AddMemory(self->memory_));

  CLEARVM_ASSIGN(self->swallowed_, NewEventFd());
  CLEARVM_RETURN_IF_ERROR(self->ShareRegisters(system));

  CLEARVM_ASSIGN(kvm::CpuidTable supported, system.SupportedCpuid());
  kvm::CpuidPolicy policy;
  policy.cpus = config.cpus;
  policy.tsc_deadline = system.CheckExtension(KVM_CAP_TSC_DEADLINE_TIMER) > 0;
  kvm::CpuidTable cpuid;
  for (uint32_t id = 0; id < config.cpus; id++) {
    CLEARVM_ASSIGN(kvm::Vcpu vcpu, self->vm_.CreateVcpu(id));
    if (id == 0) {
      policy.tsc_khz = vcpu.GetTscKhz();
      // NOLINTNEXTLINE(bugprone-use-after-move): in the first round alone.
      cpuid = kvm::GuestCpuid(std::move(supported), policy);
    }
    kvm::SetApicId(cpuid, id);
    CLEARVM_RETURN_IF_ERROR(vcpu.SetCpuid(cpuid));
    if (id == 0) self->cpuid_ = cpuid;
    if (const auto msrs = kvm::BootMsrs(cpuid); !msrs.empty()) {
      CLEARVM_RETURN_IF_ERROR(vcpu.SetMsrs(msrs));
    }
    self->vcpus_.push_back(std::move(vcpu));
  }
  self->collected_ = self->vcpus_[0].coalesced_ring(system.CheckExtension(KVM_CAP_COALESCED_MMIO));
  timeline->Stamp(CLEARVM_TIME_VM_CREATED);
  return machine;
}

Result<void> Machine::EnterKernel(const boot::BootEntry& entry) {
  probing_ = true;
  if (collected_ != nullptr) {
    CLEARVM_RETURN_IF_ERROR(vm_.AddCoalescedMmio(kvm::kIoapicAddress, 4));  // IOREGSEL
  }
  kvm::LongModeEntry state;
  state.rip = entry.rip;
  state.rsi = entry.rsi;
  state.cr3 = entry.cr3;
  state.gdt_address = entry.gdt_address;
  state.gdt_limit = entry.gdt_limit;
  return vcpus_[0].EnterLongMode(state);
}

// The devices' register blocks are read-only memory to the guest: probing a device reads some 20
// registers, and each interrupt one, none of which then costs an exit to user space. Writes exit as
// ever.
Result<void> Machine::ShareRegisters(const kvm::System& system) {
  const size_t size = config_.devices * virtio::kMmioSize;
  constexpr size_t kAll = kvm::kWindowStart + kvm::kWindowSize - kvm::kMmioHoleStart;
  void* address =
      ::mmap(nullptr, kAll, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) return SystemError("ERR_VMM", "mmap", "cannot map device registers");
  registers_ = UniqueMapping(address, kAll);
  if (::mprotect(address, size, PROT_READ | PROT_WRITE) != 0) {
    return SystemError("ERR_VMM", "mprotect", "cannot map device registers");
  }
  if (system.CheckExtension(KVM_CAP_READONLY_MEM) == 0) return {};
  window_ = registers_.bytes().last(kvm::kWindowSize);
  const kvm::MemoryRegion region{kvm::kMmioHoleStart, kAll, registers_.data(), 0};
  return vm_.SetMemorySlot(kRegisterSlot, region, true);
}

Machine::~Machine() {
  stopping_ = true;
  Resume();
  DisarmPoint();
  KickVcpus();
  for (pthread_t thread : threads_) ::pthread_join(thread, nullptr);
}

Result<void> Machine::AddDevice(std::unique_ptr<virtio::Device> device, EventLoop* loop) {
  const size_t index = devices_.size();
  CLEARVM_ASSIGN(UniqueFd irq, NewEventFd());
  CLEARVM_ASSIGN(auto transport,
                 virtio::MmioTransport::Create(std::move(device), &memory_, loop, std::move(irq),
                                               registers_.data() + index * virtio::kMmioSize));
  CLEARVM_RETURN_IF_ERROR(vm_.AddIrqFd(transport->irq_fd(), DeviceIrq(index)));
  for (size_t queue = 0; queue < transport->queue_count(); queue++) {
    CLEARVM_RETURN_IF_ERROR(vm_.AddIoEventFd(
        transport->kick_fd(queue), DeviceAddress(index) + virtio::kMmioQueueNotify, 4, queue));
  }
  // An exit for each interrupt, for nothing.
  CLEARVM_RETURN_IF_ERROR(vm_.AddIoEventFd(
      swallowed_.get(), DeviceAddress(index) + virtio::kMmioInterruptAck, 4, std::nullopt));
  if (probing_ && collected_ != nullptr) {
    for (const virtio::RegisterRange& range : virtio::kMmioParameters) {
      CLEARVM_RETURN_IF_ERROR(vm_.AddCoalescedMmio(DeviceAddress(index) + range.offset,
                                                   static_cast<uint32_t>(range.size)));
    }
  }
  devices_.push_back(std::move(transport));
  return {};
}

Result<void> Machine::Start(jail::Confinement confinement, OnVmEnd on_end) {
  on_end_ = std::move(on_end);
  confinement_ = confinement;
  struct sigaction action {};
  action.sa_handler = [](int) {};
  if (::sigaction(kKickSignal, &action, nullptr) != 0) {
    return SystemError("ERR_VMM", "sigaction", "cannot prepare to interrupt vCPUs");
  }
  running_ = vcpus_.size();
  thread_arguments_.reserve(vcpus_.size());
  threads_.reserve(vcpus_.size());
  CLEARVM_RETURN_IF_ERROR(StartVcpu(0));
  std::unique_lock lock(pause_mutex_);
  pause_changed_.wait(lock, [this] { return started_.has_value(); });
  return *started_;
}

Result<void> Machine::StartVcpu(size_t vcpu) {
  thread_arguments_.push_back({this, vcpu});
  pthread_t thread;
  const int error = ::pthread_create(&thread, nullptr, VcpuThread, &thread_arguments_.back());
  if (error != 0) {
    errno = error;
    return SystemError("ERR_VMM", "pthread_create", "cannot start a vCPU");
  }
  threads_.push_back(thread);
  return {};
}

// On the vCPU's thread. The first one starts the others, which have its filter then.
Result<void> Machine::ConfineVcpu(size_t vcpu) {
  const bool alone = vcpus_.size() == 1;
  Result<void> result;
  if (vcpu == 0) {
    result = jail::ConfineThread(alone ? jail::ThreadKind::kVcpu : jail::ThreadKind::kVcpuStarter,
                                 confinement_);
    for (size_t other = 1; other < vcpus_.size() && result.ok(); other++) result = StartVcpu(other);
    std::lock_guard lock(pause_mutex_);
    started_ = result;
    pause_changed_.notify_all();
  }
  if (result.ok() && confinement_ != jail::Confinement::kNone && !alone)
    result = jail::EndStarting();
  return result;
}

void Machine::KickVcpus() {
  for (size_t i = 0; i < threads_.size(); i++) {
    vcpus_[i].RequestExit();
    ::pthread_kill(threads_[i], kKickSignal);
  }
}

void Machine::Pause() {
  std::unique_lock lock(pause_mutex_);
  if (paused_) return;
  paused_ = true;
  KickVcpus();
  pause_changed_.wait(lock, [this] { return running_ == 0; });
}

void Machine::Resume() {
  std::lock_guard lock(pause_mutex_);
  if (!paused_) return;
  paused_ = false;
  stopped_at_ = nullptr;
  pause_changed_.notify_all();
}

void Machine::SetThrottled(bool throttled) {
  std::lock_guard lock(pause_mutex_);
  if (throttled_ == throttled) return;
  throttled_ = throttled;
  if (throttled) return KickVcpus();
  pause_changed_.notify_all();
}

void Machine::ArmPoint(std::function<void()> at_point) {
  std::lock_guard lock(pause_mutex_);
  at_point_ = std::move(at_point);
}

void Machine::DisarmPoint() {
  std::lock_guard lock(pause_mutex_);
  at_point_ = nullptr;
  // It may have come there, with nobody left who wants it to wait.
  stopped_at_ = nullptr;
  pause_changed_.notify_all();
}

void Machine::SetRenewal(const clearvm_renewal& renewal, std::span<const uint8_t> spec) {
  std::lock_guard lock(pause_mutex_);
  const auto* bytes = reinterpret_cast<const uint8_t*>(&renewal);
  renewal_.assign(bytes, bytes + sizeof renewal);
  renewal_.insert(renewal_.end(), spec.begin(), spec.end());
  renewal_read_ = 0;
}

}  // namespace clearvm::vmm
