// What a vCPU's thread does: run the guest, and answer its exits.
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "native/jail/seccomp.h"
#include "native/kvm/exit.h"
#include "native/vmm/command_line.h"
#include "native/vmm/machine.h"

namespace clearvm::vmm {
namespace {

// The port of the keyboard controller by which a PC is reset, and the command (IBM PC AT technical
// reference).
constexpr uint16_t kKeyboardPort = 0x64;
constexpr uint8_t kKeyboardReset = 0xfe;

// ns since the epoch.
uint64_t WallClock() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);  // cannot fail with this clock
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace

void* Machine::VcpuThread(void* argument) {
  auto* self = static_cast<ThreadArgument*>(argument)->machine;
  const size_t index = static_cast<ThreadArgument*>(argument)->vcpu;
  std::optional<VmEnd> end;
  if (auto confined = self->ConfineVcpu(index); !confined.ok()) {
    end = VmEnd{CLEARVM_FAILURE_JAIL, confined.error().message};
  } else {
    end = self->RunVcpu(self->vcpus_[index]);
  }
  {
    std::lock_guard lock(self->pause_mutex_);
    self->running_--;
    self->pause_changed_.notify_all();
  }
  if (end) self->on_end_(std::move(*end));
  return nullptr;
}

std::optional<VmEnd> Machine::RunVcpu(kvm::Vcpu& vcpu) {
  kvm_run& run = vcpu.run();
  std::optional<VmEnd> end;
  WaitWhilePaused(nullptr);  // StartPaused
  timeline_->Stamp(CLEARVM_TIME_GUEST_ENTRY);
  while (!end && !stopping_.load(std::memory_order_relaxed)) {
    auto event = vcpu.Run();
    if (!event.ok()) return VmEnd{CLEARVM_FAILURE_KVM, event.error().message};
    if ((end = TakeCollectedWrites())) return end;
    if (event.value() == kvm::Vcpu::Event::kInterrupted) {
      counters_[kInterruptedExits]++;
      vcpu.ClearExitRequest();
      WaitWhilePaused(&vcpu);
      continue;
    }
    switch (run.exit_reason) {
      case KVM_EXIT_IO:
        end = HandlePort(vcpu);
        break;
      case KVM_EXIT_MMIO:
        end = HandleMmio(run);
        break;
      case KVM_EXIT_IOAPIC_EOI:
        counters_[kEoiExits]++;  // no line of ours holds a level that this could lower
        break;
      case KVM_EXIT_SHUTDOWN:
        return VmEnd{CLEARVM_FAILURE_SHUTDOWN,
                     "the guest reset itself or met a triple fault (KVM_EXIT_SHUTDOWN)"};
      default:
        return VmEnd{CLEARVM_FAILURE_KVM,
                     "the guest stopped at an exit that the VMM does not handle: " +
                         kvm::DescribeExit(vcpu, memory_)};
    }
  }
  return end;
}

std::optional<VmEnd> Machine::HandlePort(kvm::Vcpu& vcpu) {
  counters_[kPortExits]++;
  const auto& io = vcpu.run().io;
  const std::span<uint8_t> data = vcpu.io_data();
  if (io.direction == KVM_EXIT_IO_IN) {
    std::memset(data.data(), 0xff, data.size());  // what a bus with nothing on it reads as
    if (io.port == CLEARVM_PORT_IO_IDENTITY) ReadRenewal(data);
    return {};
  }
  switch (io.port) {
    case CLEARVM_PORT_IO_STAMP:
      for (uint8_t code : data) {
        if (code == CLEARVM_STAMP_INIT) {
          timeline_->Stamp(CLEARVM_TIME_INIT);
          if (config_.count_exits) ReadKvmStatistics(vcpu);
        } else if (code == CLEARVM_STAMP_ROOT) {
          timeline_->Stamp(CLEARVM_TIME_ROOT_MOUNTED);
        } else if (code == CLEARVM_STAMP_EXEC) {
          timeline_->Stamp(CLEARVM_TIME_EXEC);
        }
      }
      return {};
    case CLEARVM_PORT_IO_SNAPSHOT:
      StopAtPoint(vcpu);
      return {};
    case CLEARVM_PORT_IO_PANIC_LOG:
      log_->AppendPanic(data);
      return {};
    case CLEARVM_PORT_IO_PANIC:
      return VmEnd{CLEARVM_FAILURE_PANIC, "the guest kernel panicked"};
    case kKeyboardPort:
      if (!data.empty() && data[0] == kKeyboardReset) {
        return VmEnd{CLEARVM_FAILURE_SHUTDOWN, "the guest reset itself"};
      }
      return {};
    default:
      return {};  // legacy devices that are not there: writes are lost
  }
}

std::optional<VmEnd> Machine::HandleMmio(kvm_run& run) {
  counters_[kMmioExits]++;
  const uint64_t address = run.mmio.phys_addr;
  const uint32_t length =
      run.mmio.len <= sizeof run.mmio.data ? run.mmio.len : sizeof run.mmio.data;
  const std::span<uint8_t> data(run.mmio.data, length);
  if (run.mmio.is_write) return WriteMmio(address, data);
  const uint64_t device = (address - kvm::kMmioHoleStart) / virtio::kMmioSize;
  if (address >= kvm::kMmioHoleStart && device < devices_.size()) {
    devices_[device]->Read(address - DeviceAddress(device), data);
  } else if (address >= kvm::kIoapicAddress && address < kvm::kIoapicAddress + kvm::kIoapicSize) {
    ioapic_->Read(address - kvm::kIoapicAddress, data);
  } else {
    std::memset(data.data(), 0xff, data.size());
  }
  return {};
}

std::optional<VmEnd> Machine::WriteMmio(uint64_t address, std::span<const uint8_t> data) {
  const uint64_t device = (address - kvm::kMmioHoleStart) / virtio::kMmioSize;
  if (address >= kvm::kMmioHoleStart && device < devices_.size()) {
    devices_[device]->Write(address - DeviceAddress(device), data);
  } else if (address >= kvm::kIoapicAddress && address < kvm::kIoapicAddress + kvm::kIoapicSize) {
    auto written = ioapic_->Write(address - kvm::kIoapicAddress, data);
    if (!written.ok()) return VmEnd{CLEARVM_FAILURE_KVM, written.error().message};
  }
  return {};
}

// Whatever the guest does next that exits, it has done these writes before.
std::optional<VmEnd> Machine::TakeCollectedWrites() {
  if (collected_ == nullptr) return {};
  constexpr uint32_t kEntries =
      (4096 - sizeof(kvm_coalesced_mmio_ring)) / sizeof(kvm_coalesced_mmio);  // as KVM counts them
  std::lock_guard lock(collected_mutex_);
  for (;;) {
    const uint32_t first = collected_->first;
    if (first >= kEntries ||
        first == std::atomic_ref<uint32_t>(collected_->last).load(std::memory_order_acquire)) {
      return {};
    }
    const kvm_coalesced_mmio& write = collected_->coalesced_mmio[first];
    const uint32_t length = write.len <= sizeof write.data ? write.len : sizeof write.data;
    auto end = WriteMmio(write.phys_addr, {write.data, length});
    std::atomic_ref<uint32_t>(collected_->first)
        .store((first + 1) % kEntries, std::memory_order_release);
    if (end) return end;
  }
}

void Machine::WaitWhilePaused(const kvm::Vcpu* vcpu) {
  std::unique_lock lock(pause_mutex_);
  const auto waits = [this, vcpu] {
    return !stopping_ && (paused_ || throttled_ || (vcpu != nullptr && stopped_at_ == vcpu));
  };
  if (!waits()) return;
  running_--;
  pause_changed_.notify_all();
  pause_changed_.wait(lock, [&waits] { return !waits(); });
  running_++;
}

// KVM completes the write when the vCPU is entered next: it has to be, and comes out again at once.
void Machine::StopAtPoint(kvm::Vcpu& vcpu) {
  std::lock_guard lock(pause_mutex_);
  if (!at_point_) return;
  stopped_at_ = &vcpu;
  vcpu.RequestExit();
  std::exchange(at_point_, nullptr)();
}

// Times as late as can be.
void Machine::ReadRenewal(std::span<uint8_t> data) {
  std::lock_guard lock(pause_mutex_);
  if (renewal_read_ == 0 && renewal_.size() >= sizeof(clearvm_renewal)) {
    clearvm_renewal renewal;
    std::memcpy(&renewal, renewal_.data(), sizeof renewal);
    renewal.identity.time = WallClock();
    const Tsc tsc = GuestTsc();
    renewal.identity.tsc = tsc.now;
    renewal.identity.tsc_khz = tsc.khz;
    std::memcpy(renewal_.data(), &renewal, sizeof renewal);
  }
  const size_t size = std::min(data.size(), renewal_.size() - renewal_read_);
  std::memcpy(data.data(), renewal_.data() + renewal_read_, size);
  renewal_read_ += size;
  // Nobody is to read the seed a second time.
  if (renewal_read_ == renewal_.size()) {
    std::fill(renewal_.begin(), renewal_.end(), 0);
    renewal_.clear();
    renewal_read_ = 0;
  }
}

}  // namespace clearvm::vmm
