#include "native/virtio/queue.h"

#include <cstring>

namespace clearvm::virtio {
namespace {

// Descriptor flags, virtio 1.2 section 2.7.5.
constexpr uint16_t kNext = 1;
constexpr uint16_t kWrite = 2;
constexpr uint16_t kIndirect = 4;
// avail.flags and used.flags.
constexpr uint16_t kNoInterrupt = 1;
constexpr uint16_t kNoNotify = 1;

constexpr size_t kDescriptorSize = 16;
// Offsets within the avail and used rings, which begin alike: flags, idx, ring[].
constexpr size_t kFlagsOffset = 0;
constexpr size_t kIndexOffset = 2;
constexpr size_t kRingOffset = 4;
constexpr size_t kUsedElementSize = 8;

Error LayoutError(const char* what) {
  return {"ERR_VIRTQUEUE", 0, "", std::string("the guest set a virtqueue up wrongly: ") + what};
}

}  // namespace

const char* QueueFaultText(QueueFault fault) {
  switch (fault) {
    case QueueFault::kNone:
      return "no fault";
    case QueueFault::kAvailIndex:
      return "the avail index ran more than the queue's size ahead";
    case QueueFault::kHeadRange:
      return "an avail ring entry names no descriptor";
    case QueueFault::kNextRange:
      return "a next field names no descriptor";
    case QueueFault::kLoop:
      return "a descriptor chain is longer than its table";
    case QueueFault::kTooManyBuffers:
      return "a descriptor chain has too many buffers";
    case QueueFault::kTooManyBytes:
      return "a descriptor chain holds 4 GiB or more";
    case QueueFault::kBufferAddress:
      return "a buffer is not in guest RAM";
    case QueueFault::kBufferSize:
      return "a buffer is too small for what belongs into it";
    case QueueFault::kOrder:
      return "a readable buffer follows a writable one";
    case QueueFault::kIndirectNotNegotiated:
      return "an indirect descriptor without the feature";
    case QueueFault::kIndirectNested:
      return "an indirect descriptor within an indirect table";
    case QueueFault::kIndirectNext:
      return "an indirect descriptor that has a next one";
    case QueueFault::kIndirectTable:
      return "an indirect table of a wrong size or address";
  }
  return "unknown fault";
}

Result<Queue> Queue::Create(const kvm::GuestMemory* memory, const QueueLayout& layout,
                            const QueuePosition& position) {
  const size_t size = layout.size;
  if (size == 0 || size > 32768 || (size & (size - 1)) != 0) {
    return LayoutError("its size is not a power of two from 1 to 32768");
  }
  if (layout.descriptors % 16 != 0 || layout.driver_area % 2 != 0 || layout.device_area % 4 != 0) {
    return LayoutError("an address is not aligned");
  }
  Queue queue;
  queue.descriptors_ = memory->Translate(layout.descriptors, size * kDescriptorSize);
  // Both rings end with the other side's event index, which is there (unused) without the feature
  // as well.
  queue.avail_ = memory->Translate(layout.driver_area, kRingOffset + 2 * size + 2);
  queue.used_ = memory->Translate(layout.device_area, kRingOffset + kUsedElementSize * size + 2);
  if (queue.descriptors_ == nullptr || queue.avail_ == nullptr || queue.used_ == nullptr) {
    return LayoutError("an address is not in guest RAM");
  }
  queue.memory_ = memory;
  queue.size_ = layout.size;
  queue.indirect_ = layout.indirect;
  queue.event_index_ = layout.event_index;
  queue.next_avail_ = position.next_avail;
  queue.next_used_ = position.next_used;
  queue.signalled_used_ = position.signalled_used;
  return queue;
}

Queue::Descriptor Queue::Load(const uint8_t* table, size_t index) {
  Descriptor descriptor;
  std::memcpy(&descriptor, table + index * kDescriptorSize, sizeof descriptor);
  // The guest may change the original at any time: what was checked must be what is used, so the
  // compiler must not read it a second time.
  asm volatile("" ::: "memory");
  return descriptor;
}

uint16_t Queue::AvailIndex() const {
  return __atomic_load_n(At<uint16_t>(avail_, kIndexOffset), __ATOMIC_ACQUIRE);
}

bool Queue::HasAvailable() const {
  return ready() && fault_ == QueueFault::kNone && AvailIndex() != next_avail_;
}

bool Queue::Pop(Chain* chain) {
  if (!HasAvailable()) return false;
  if (static_cast<uint16_t>(AvailIndex() - next_avail_) > size_) {
    return Fail(QueueFault::kAvailIndex);
  }
  const size_t slot = next_avail_ & (size_ - 1);
  const uint16_t head =
      __atomic_load_n(At<uint16_t>(avail_, kRingOffset + 2 * slot), __ATOMIC_RELAXED);
  if (head >= size_) return Fail(QueueFault::kHeadRange);
  if (!Walk(head, chain)) return false;
  next_avail_++;
  return true;
}

bool Queue::Walk(uint16_t head, Chain* chain) {
  chain->buffers_.clear();
  chain->readable_count_ = 0;
  chain->readable_bytes_ = 0;
  chain->writable_bytes_ = 0;
  chain->head_ = head;
  uint16_t index = head;
  for (size_t seen = 0; seen < size_; seen++) {
    const Descriptor descriptor = Load(descriptors_, index);
    if ((descriptor.flags & kIndirect) != 0) return WalkIndirect(descriptor, chain);
    if (!Append(descriptor, chain)) return false;
    if ((descriptor.flags & kNext) == 0) return true;
    if (descriptor.next >= size_) return Fail(QueueFault::kNextRange);
    index = descriptor.next;
  }
  return Fail(QueueFault::kLoop);
}

bool Queue::WalkIndirect(const Descriptor& descriptor, Chain* chain) {
  if (!indirect_) return Fail(QueueFault::kIndirectNotNegotiated);
  if ((descriptor.flags & kNext) != 0) return Fail(QueueFault::kIndirectNext);
  if (descriptor.length == 0 || descriptor.length % kDescriptorSize != 0) {
    return Fail(QueueFault::kIndirectTable);
  }
  const uint8_t* table = memory_->Translate(descriptor.address, descriptor.length);
  if (table == nullptr) return Fail(QueueFault::kIndirectTable);
  const size_t count = descriptor.length / kDescriptorSize;
  size_t index = 0;
  for (size_t seen = 0; seen < count; seen++) {
    // Empty buffers are not kept, so kMaxChainBuffers alone would not bound the walk.
    if (seen == kMaxChainBuffers) return Fail(QueueFault::kTooManyBuffers);
    const Descriptor entry = Load(table, index);
    if ((entry.flags & kIndirect) != 0) return Fail(QueueFault::kIndirectNested);
    if (!Append(entry, chain)) return false;
    if ((entry.flags & kNext) == 0) return true;
    if (entry.next >= count) return Fail(QueueFault::kNextRange);
    index = entry.next;
  }
  return Fail(QueueFault::kLoop);
}

bool Queue::Append(const Descriptor& descriptor, Chain* chain) {
  const bool writable = (descriptor.flags & kWrite) != 0;
  if (!writable && chain->writable_bytes_ != 0) return Fail(QueueFault::kOrder);
  if (descriptor.length == 0) return true;
  if (chain->buffers_.size() == kMaxChainBuffers) return Fail(QueueFault::kTooManyBuffers);
  const uint64_t total =
      uint64_t{chain->readable_bytes_} + chain->writable_bytes_ + descriptor.length;
  if (total > UINT32_MAX) return Fail(QueueFault::kTooManyBytes);
  uint8_t* host = memory_->Translate(descriptor.address, descriptor.length);
  if (host == nullptr) return Fail(QueueFault::kBufferAddress);
  chain->buffers_.push_back({host, descriptor.length});
  if (writable) {
    chain->writable_bytes_ += descriptor.length;
  } else {
    chain->readable_bytes_ += descriptor.length;
    chain->readable_count_++;
  }
  return true;
}

void Queue::AddUsed(const Chain& chain, uint32_t written) {
  const size_t slot = next_used_ & (size_ - 1);
  auto* element = At<uint32_t>(used_, kRingOffset + kUsedElementSize * slot);
  __atomic_store_n(element, uint32_t{chain.head_}, __ATOMIC_RELAXED);
  __atomic_store_n(element + 1, written, __ATOMIC_RELAXED);
  next_used_++;
  __atomic_store_n(At<uint16_t>(used_, kIndexOffset), next_used_, __ATOMIC_RELEASE);
}

void Queue::DisableNotification() {
  // With event indices there is nothing to do: avail_event stays behind until EnableNotification.
  if (!ready() || event_index_) return;
  __atomic_store_n(At<uint16_t>(used_, kFlagsOffset), kNoNotify, __ATOMIC_RELAXED);
}

bool Queue::EnableNotification() {
  if (!ready() || fault_ != QueueFault::kNone) return false;
  if (event_index_) {
    __atomic_store_n(At<uint16_t>(used_, kRingOffset + kUsedElementSize * size_), next_avail_,
                     __ATOMIC_RELAXED);
  } else {
    __atomic_store_n(At<uint16_t>(used_, kFlagsOffset), uint16_t{0}, __ATOMIC_RELAXED);
  }
  // The store must be seen before avail.idx is read again, or a kick could fall between the two.
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  return HasAvailable();
}

bool Queue::NeedsInterrupt() {
  if (!ready() || next_used_ == signalled_used_) return false;
  const uint16_t before = signalled_used_;
  signalled_used_ = next_used_;
  // used.idx must be seen before the driver's wish is read (section 2.7.7.2).
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (!event_index_) {
    return (__atomic_load_n(At<uint16_t>(avail_, kFlagsOffset), __ATOMIC_RELAXED) & kNoInterrupt) ==
           0;
  }
  const uint16_t event =
      __atomic_load_n(At<uint16_t>(avail_, kRingOffset + 2 * size_t{size_}), __ATOMIC_RELAXED);
  return static_cast<uint16_t>(next_used_ - event - 1) < static_cast<uint16_t>(next_used_ - before);
}

}  // namespace clearvm::virtio
