// What the files of the MMIO transport share; of no interest to others.
#ifndef CLEARVM_VIRTIO_MMIO_STATE_H_
#define CLEARVM_VIRTIO_MMIO_STATE_H_

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "native/virtio/mmio.h"

namespace clearvm::virtio {

// Registers, virtio 1.2 section 4.2.2.
enum Register : uint64_t {
  kMagicValue = 0x00,
  kVersion = 0x04,
  kDeviceId = 0x08,
  kVendorId = 0x0c,
  kDeviceFeatures = 0x10,
  kDeviceFeaturesSel = 0x14,
  kDriverFeatures = 0x20,
  kDriverFeaturesSel = 0x24,
  kQueueSel = 0x30,
  kQueueNumMax = 0x34,
  kQueueNum = 0x38,
  kQueueReady = 0x44,
  kQueueNotify = kMmioQueueNotify,
  kInterruptStatus = 0x60,
  kInterruptAck = kMmioInterruptAck,
  kStatus = 0x70,
  kQueueDescLow = 0x80,
  kQueueDescHigh = 0x84,
  kQueueDriverLow = 0x90,
  kQueueDriverHigh = 0x94,
  kQueueDeviceLow = 0xa0,
  kQueueDeviceHigh = 0xa4,
  kShmLenLow = 0xb0,
  kShmLenHigh = 0xb4,
  kShmBaseLow = 0xb8,
  kShmBaseHigh = 0xbc,
  kConfig = 0x100,
};

// Device status bits, section 2.1.
inline constexpr uint32_t kDriverOk = 4;
inline constexpr uint32_t kFeaturesOk = 8;
inline constexpr uint32_t kNeedsReset = 64;
inline constexpr uint32_t kDriverBits = 1 | 2 | kDriverOk | kFeaturesOk | 128;

// InterruptStatus bits.
inline constexpr uint32_t kUsedBuffer = 1;
inline constexpr uint32_t kConfigChange = 2;

inline constexpr auto kResetPatience = std::chrono::seconds(1);

inline void SignalEventFd(int fd) {
  const uint64_t one = 1;
  // EAGAIN is the only failure: the counter is full, so the signal is pending anyway.
  [[maybe_unused]] ssize_t wrote = ::write(fd, &one, sizeof one);
}

struct MmioTransport::State final : public Interrupt {
  struct QueueRegisters {
    QueueLayout layout;
    bool ready = false;
  };

  // Set up by Create, and constant.
  std::unique_ptr<Device> device;
  const kvm::GuestMemory* memory = nullptr;
  EventLoop* loop = nullptr;
  UniqueFd irq;
  std::vector<UniqueFd> kicks;
  uint64_t offered = 0;
  std::weak_ptr<State> self;

  // Every register as the driver reads it, the configuration space included. The guest may see
  // these bytes without an exit (and cannot write them), so they are true at any time, and this is
  // where InterruptStatus lives.
  std::unique_ptr<uint8_t[]> own_registers;
  uint8_t* registers = nullptr;
  std::atomic_ref<uint32_t> Shown(uint64_t offset) {
    return std::atomic_ref<uint32_t>(*reinterpret_cast<uint32_t*>(registers + offset));
  }

  std::atomic<uint32_t> status{0};
  // How many resets are not complete yet; until then the driver reads the status that they have
  // ended.
  std::atomic<uint32_t> resets_pending{0};
  std::condition_variable reset_done;  // with `mutex`

  // The registers below belong to `mutex`.
  std::mutex mutex;
  uint32_t device_features_sel = 0;
  uint32_t driver_features_sel = 0;
  uint64_t driver_features = 0;
  uint32_t queue_sel = 0;
  std::vector<QueueRegisters> queues;

  // The loop's thread only: the device has its queues.
  bool active = false;

  void ShowConstants();
  // With `mutex` held, after each change of what they show.
  void ShowStatus();
  void ShowSelected();
  void WriteRegister(uint64_t offset, uint32_t value);
  void WriteStatus(uint32_t value, std::unique_lock<std::mutex>* lock);
  void WriteQueueReady(QueueRegisters* queue, uint32_t value, std::unique_lock<std::mutex>* lock);
  QueueRegisters* SelectedQueue() {
    return queue_sel < queues.size() ? &queues[queue_sel] : nullptr;
  }

  void SetNegotiated(QueueLayout* layout) const {
    layout->indirect = (driver_features & kFeatureRingIndirectDesc) != 0;
    layout->event_index = (driver_features & kFeatureRingEventIdx) != 0;
  }
  void PostActivate();
  void PostStop();
  void AwaitStop(std::unique_lock<std::mutex>* lock) {
    reset_done.wait_for(*lock, kResetPatience, [this] { return resets_pending.load() == 0; });
  }
  void Activate(std::vector<Queue> built, uint64_t features);
  void HandleReadyQueues();
  void OnKick(size_t queue);
  void NeedReset();  // with `mutex` held

  void SignalUsed() override { Raise(kUsedBuffer); }
  void SignalConfigChange() override { Raise(kConfigChange); }
  void SignalNeedsReset(QueueFault) override {
    std::lock_guard lock(mutex);
    // A device that is about to be stopped anyway must not spoil the status of its next life.
    if (resets_pending.load() == 0) NeedReset();
  }
  void KickAgain(size_t queue) override { SignalEventFd(kicks[queue].get()); }
  void Raise(uint32_t bit) {
    Shown(kInterruptStatus).fetch_or(bit, std::memory_order_acq_rel);
    SignalEventFd(irq.get());
  }
};

}  // namespace clearvm::virtio

#endif  // CLEARVM_VIRTIO_MMIO_STATE_H_
