// The MMIO transport in a snapshot.
#include <utility>
#include <vector>

#include "native/virtio/mmio_state.h"

namespace clearvm::virtio {
namespace {

// Of a transport, in a snapshot. Restored registers are as little trusted as those that a driver
// writes: the queues are checked the same way.
struct SavedRegisters {
  uint32_t device_id;
  uint32_t status;
  uint32_t interrupt_status;
  uint32_t device_features_sel;
  uint32_t driver_features_sel;
  uint32_t queue_sel;
  uint64_t driver_features;
};

struct SavedQueue {
  uint64_t descriptors;
  uint64_t driver_area;
  uint64_t device_area;
  QueuePosition position;
  uint16_t size;
  uint16_t ready;
  uint16_t zero[2];
};
static_assert(sizeof(SavedQueue) == 40);

}  // namespace

Result<void> MmioTransport::Save(ByteWriter& out) const {
  State& state = *state_;
  std::lock_guard lock(state.mutex);
  SavedRegisters registers{};
  registers.device_id = state.device->device_id();
  registers.status = state.status.load();
  registers.interrupt_status = state.Shown(kInterruptStatus);
  registers.device_features_sel = state.device_features_sel;
  registers.driver_features_sel = state.driver_features_sel;
  registers.queue_sel = state.queue_sel;
  registers.driver_features = state.driver_features;
  out.Put(registers);
  for (size_t i = 0; i < state.queues.size(); i++) {
    const QueueLayout& layout = state.queues[i].layout;
    SavedQueue queue{};
    queue.descriptors = layout.descriptors;
    queue.driver_area = layout.driver_area;
    queue.device_area = layout.device_area;
    queue.position = state.device->Position(i);
    queue.size = layout.size;
    queue.ready = state.queues[i].ready ? 1 : 0;
    out.Put(queue);
  }
  return state.device->Save(out);
}

Result<void> MmioTransport::Restore(ByteReader& in) {
  State& state = *state_;
  std::unique_lock lock(state.mutex);
  const auto registers = in.Take<SavedRegisters>();
  if (registers.device_id != state.device->device_id()) {
    return Error{"ERR_DEVICE_STATE", 0, "", "the saved device is of another kind"};
  }
  state.status = registers.status & kDriverBits;
  state.Shown(kInterruptStatus) = registers.interrupt_status;
  state.device_features_sel = registers.device_features_sel;
  state.driver_features_sel = registers.driver_features_sel;
  state.queue_sel = registers.queue_sel;
  state.driver_features = registers.driver_features & state.offered;
  std::vector<Queue> built(state.queues.size());
  for (size_t i = 0; i < built.size(); i++) {
    const auto saved = in.Take<SavedQueue>();
    QueueLayout& layout = state.queues[i].layout;
    layout.size = saved.size <= state.device->queue_max_sizes()[i] ? saved.size : 0;
    layout.descriptors = saved.descriptors;
    layout.driver_area = saved.driver_area;
    layout.device_area = saved.device_area;
    if (saved.ready == 0) continue;
    state.SetNegotiated(&layout);
    CLEARVM_ASSIGN(built[i], Queue::Create(state.memory, layout, saved.position));
    state.queues[i].ready = true;
  }
  state.ShowStatus();
  state.ShowSelected();
  lock.unlock();
  if ((registers.status & kDriverOk) == 0) return {};
  CLEARVM_RETURN_IF_ERROR(state.device->Activate(state.driver_features, std::move(built), &state));
  state.active = true;
  CLEARVM_RETURN_IF_ERROR(state.device->Restore(in));
  state.HandleReadyQueues();
  return {};
}

void MmioTransport::Nudge() {
  if (state_->active) state_->SignalUsed();
}

}  // namespace clearvm::virtio
