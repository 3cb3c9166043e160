#include "native/virtio/mmio.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <cstring>
#include <utility>

#include "native/virtio/mmio_state.h"

namespace clearvm::virtio {
namespace {

constexpr uint32_t kMagic = 0x74726976;   // "virt"
constexpr uint32_t kVendor = 0x4d564c43;  // "CLVM"
constexpr uint32_t kMmioVersion = 2;

constexpr uint64_t SetLow(uint64_t old, uint32_t value) { return (old & ~0xffff'ffffull) | value; }
constexpr uint64_t SetHigh(uint64_t old, uint32_t value) {
  return (old & 0xffff'ffffull) | uint64_t{value} << 32;
}

}  // namespace

Result<std::unique_ptr<MmioTransport>> MmioTransport::Create(std::unique_ptr<Device> device,
                                                             const kvm::GuestMemory* memory,
                                                             EventLoop* loop, UniqueFd irq,
                                                             uint8_t* registers) {
  auto state = std::make_shared<State>();
  state->offered =
      device->features() | kFeatureRingIndirectDesc | kFeatureRingEventIdx | kFeatureVersion1;
  state->device = std::move(device);
  state->memory = memory;
  state->loop = loop;
  state->irq = std::move(irq);
  state->self = state;
  const size_t count = state->device->queue_max_sizes().size();
  state->queues.resize(count);
  if (registers == nullptr) {
    state->own_registers = std::make_unique<uint8_t[]>(kMmioSize);
    registers = state->own_registers.get();
  }
  state->registers = registers;
  state->ShowConstants();
  state->kicks.reserve(count);
  std::unique_ptr<MmioTransport> transport(new MmioTransport(state));
  for (size_t i = 0; i < count; i++) {
    UniqueFd kick(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!kick.valid()) {
      return SystemError("ERR_VIRTIO_EVENTFD", "eventfd", "cannot create a queue's kick eventfd");
    }
    CLEARVM_RETURN_IF_ERROR(
        loop->Add(kick.get(), EPOLLIN, [raw = state.get(), i](uint32_t) { raw->OnKick(i); }));
    state->kicks.push_back(std::move(kick));
  }
  return transport;
}

MmioTransport::MmioTransport(std::shared_ptr<State> state) : state_(std::move(state)) {}

MmioTransport::~MmioTransport() {
  for (const UniqueFd& kick : state_->kicks) state_->loop->Remove(kick.get());
}

EventLoop* MmioTransport::loop() const { return state_->loop; }
size_t MmioTransport::queue_count() const { return state_->kicks.size(); }
int MmioTransport::kick_fd(size_t queue) const { return state_->kicks[queue].get(); }
int MmioTransport::irq_fd() const { return state_->irq.get(); }
Device* MmioTransport::device() const { return state_->device.get(); }

void MmioTransport::Read(uint64_t offset, std::span<uint8_t> out) {
  std::memset(out.data(), 0, out.size());
  if (offset >= kMmioSize || out.size() > kMmioSize - offset) return;
  if (offset >= kConfig) {
    std::memcpy(out.data(), state_->registers + offset, out.size());
  } else if (out.size() == 4 && offset % 4 == 0) {
    const uint32_t value = state_->Shown(offset).load(std::memory_order_acquire);
    std::memcpy(out.data(), &value, sizeof value);
  }
}

void MmioTransport::Write(uint64_t offset, std::span<const uint8_t> data) {
  // No device of ours has configuration that the driver may write.
  if (offset >= kConfig || data.size() != 4 || offset % 4 != 0) return;
  uint32_t value;
  std::memcpy(&value, data.data(), sizeof value);
  state_->WriteRegister(offset, value);
}

void MmioTransport::State::ShowConstants() {
  Shown(kMagicValue) = kMagic;
  Shown(kVersion) = kMmioVersion;
  Shown(kDeviceId) = device->device_id();
  Shown(kVendorId) = kVendor;
  // Section 4.2.2: there is no such shared memory region.
  for (uint64_t offset : {kShmLenLow, kShmLenHigh, kShmBaseLow, kShmBaseHigh}) {
    Shown(offset) = UINT32_MAX;
  }
  // ConfigGeneration stays 0: no device of ours ever changes its configuration.
  device->ReadConfig(0, {registers + kConfig, kMmioSize - kConfig});
  ShowSelected();
}

void MmioTransport::State::ShowStatus() {
  if (resets_pending.load() == 0) Shown(kStatus) = status.load(std::memory_order_relaxed);
}

void MmioTransport::State::ShowSelected() {
  Shown(kDeviceFeatures) =
      device_features_sel < 2 ? static_cast<uint32_t>(offered >> (32 * device_features_sel)) : 0;
  const QueueRegisters* queue = SelectedQueue();
  Shown(kQueueNumMax) = queue != nullptr ? device->queue_max_sizes()[queue_sel] : 0;
  Shown(kQueueReady) = queue != nullptr && queue->ready ? 1 : 0;
}

void MmioTransport::State::WriteRegister(uint64_t offset, uint32_t value) {
  if (offset == kQueueNotify) {
    // Seen only where no ioeventfd is registered.
    if (value < kicks.size()) SignalEventFd(kicks[value].get());
    return;
  }
  if (offset == kInterruptAck) {
    Shown(kInterruptStatus).fetch_and(~value, std::memory_order_acq_rel);
    return;
  }
  std::unique_lock lock(mutex);
  if (offset == kStatus) return WriteStatus(value, &lock);
  if (offset == kDeviceFeaturesSel) {
    device_features_sel = value;
    return ShowSelected();
  }
  if (offset == kDriverFeaturesSel) {
    driver_features_sel = value;
    return;
  }
  if (offset == kQueueSel) {
    queue_sel = value;
    return ShowSelected();
  }
  const uint32_t now = status.load(std::memory_order_relaxed);
  if (offset == kDriverFeatures) {
    // Negotiation ends with FEATURES_OK (section 3.1.1).
    if ((now & kFeaturesOk) != 0) return;
    if (driver_features_sel == 0) driver_features = SetLow(driver_features, value);
    if (driver_features_sel == 1) driver_features = SetHigh(driver_features, value);
    // A feature beyond bit 63 was not offered: remembered as one that was not, so that FEATURES_OK
    // is refused.
    if (driver_features_sel > 1 && value != 0) driver_features |= ~offered;
    return;
  }
  QueueRegisters* queue = SelectedQueue();
  if (queue == nullptr) return;
  if (offset == kQueueReady) {
    WriteQueueReady(queue, value, &lock);
    return ShowSelected();
  }
  // Section 4.2.2.2: a queue that is ready must not be changed.
  if (queue->ready) return;
  QueueLayout& layout = queue->layout;
  switch (offset) {
    case kQueueNum:
      // 0, which no queue may have, stands for what does not even fit.
      layout.size =
          value <= device->queue_max_sizes()[queue_sel] ? static_cast<uint16_t>(value) : 0;
      return;
    case kQueueDescLow:
      layout.descriptors = SetLow(layout.descriptors, value);
      return;
    case kQueueDescHigh:
      layout.descriptors = SetHigh(layout.descriptors, value);
      return;
    case kQueueDriverLow:
      layout.driver_area = SetLow(layout.driver_area, value);
      return;
    case kQueueDriverHigh:
      layout.driver_area = SetHigh(layout.driver_area, value);
      return;
    case kQueueDeviceLow:
      layout.device_area = SetLow(layout.device_area, value);
      return;
    case kQueueDeviceHigh:
      layout.device_area = SetHigh(layout.device_area, value);
      return;
    default:
      return;
  }
}

void MmioTransport::State::WriteQueueReady(QueueRegisters* queue, uint32_t value,
                                           std::unique_lock<std::mutex>* lock) {
  const bool live = (status.load(std::memory_order_relaxed) & kDriverOk) != 0;
  if (value == 0) {
    if (!queue->ready) return;
    queue->ready = false;
    if (live) {
      NeedReset();
      PostStop();
      AwaitStop(lock);
    }
    return;
  }
  // A queue that comes up after DRIVER_OK would never reach the device.
  if (value != 1 || queue->ready || live) return;
  SetNegotiated(&queue->layout);
  if (Queue::Create(memory, queue->layout).ok()) {
    queue->ready = true;
  } else {
    NeedReset();
  }
}

void MmioTransport::State::WriteStatus(uint32_t value, std::unique_lock<std::mutex>* lock) {
  const uint32_t now = status.load(std::memory_order_relaxed);
  if (value == 0) {
    device_features_sel = driver_features_sel = queue_sel = 0;
    driver_features = 0;
    queues.assign(queues.size(), {});
    // Nothing but DRIVER_OK gives the device anything to drop: a probe's first reset costs no
    // hand-over.
    if ((now & kDriverOk) != 0) {
      PostStop();
    } else {
      Shown(kInterruptStatus) = 0;
    }
    status.store(0, std::memory_order_release);
    ShowStatus();
    ShowSelected();
    AwaitStop(lock);
    return;
  }
  // Bits are only ever added (section 2.1.1); the device sets NEEDS_RESET itself.
  uint32_t added = value & kDriverBits & ~now;
  if ((added & kFeaturesOk) != 0 &&
      ((driver_features & ~offered) != 0 || (driver_features & kFeatureVersion1) == 0)) {
    added &= ~kFeaturesOk;
  }
  if (((now | added) & kFeaturesOk) == 0) added &= ~kDriverOk;
  status.fetch_or(added, std::memory_order_acq_rel);
  ShowStatus();
  if ((added & kDriverOk) != 0) PostActivate();
}

void MmioTransport::State::PostActivate() {
  auto built = std::make_shared<std::vector<Queue>>(queues.size());
  for (size_t i = 0; i < queues.size(); i++) {
    if (!queues[i].ready) continue;
    // It was checked when it became ready, and could not be changed since.
    Result<Queue> queue = Queue::Create(memory, queues[i].layout);
    if (queue.ok()) (*built)[i] = std::move(queue).value();
  }
  loop->Post([weak = self, built, features = driver_features] {
    if (auto state = weak.lock()) state->Activate(std::move(*built), features);
  });
}

void MmioTransport::State::PostStop() {
  resets_pending.fetch_add(1, std::memory_order_acq_rel);
  loop->Post([weak = self] {
    auto state = weak.lock();
    if (state == nullptr) return;
    if (state->active) state->device->Reset();
    state->active = false;
    std::lock_guard lock(state->mutex);
    state->Shown(kInterruptStatus) = 0;
    state->resets_pending.fetch_sub(1, std::memory_order_acq_rel);
    state->ShowStatus();
    state->reset_done.notify_all();
  });
}

void MmioTransport::State::Activate(std::vector<Queue> built, uint64_t features) {
  active = device->Activate(features, std::move(built), this).ok();
  if (!active) return SignalNeedsReset(QueueFault::kNone);
  // The driver may have kicked while the device had no queues yet.
  HandleReadyQueues();
}

// A queue that never became ready has nothing for the device to find.
void MmioTransport::State::HandleReadyQueues() {
  for (size_t i = 0; i < kicks.size(); i++) {
    if ((status.load(std::memory_order_acquire) & kNeedsReset) == 0) device->HandleQueue(i);
  }
}

void MmioTransport::State::OnKick(size_t queue) {
  uint64_t count;
  // EAGAIN is the only failure: somebody else has taken the count.
  [[maybe_unused]] ssize_t got = ::read(kicks[queue].get(), &count, sizeof count);
  if (active && (status.load(std::memory_order_acquire) & kNeedsReset) == 0) {
    device->HandleQueue(queue);
  }
}

void MmioTransport::State::NeedReset() {
  const uint32_t before = status.fetch_or(kNeedsReset, std::memory_order_acq_rel);
  ShowStatus();
  // Section 2.1.2: the driver is told if it is past DRIVER_OK, and once is enough.
  if ((before & kDriverOk) != 0 && (before & kNeedsReset) == 0) SignalConfigChange();
}

}  // namespace clearvm::virtio
