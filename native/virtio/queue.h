// The device's side of a split virtqueue: virtio 1.2 section 2.7, with indirect descriptors and
// event indices.
#ifndef CLEARVM_VIRTIO_QUEUE_H_
#define CLEARVM_VIRTIO_QUEUE_H_

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "native/base/result.h"
#include "native/kvm/memory.h"

namespace clearvm::virtio {

// The most buffers of one chain, direct and indirect descriptors together. It is IOV_MAX, so that a
// chain can be handed to readv(2) and writev(2) whole.
inline constexpr size_t kMaxChainBuffers = 1024;

// What the driver did wrong with a queue. Whatever it is, the queue is of no use until the device
// is reset.
enum class QueueFault : uint8_t {
  kNone,
  kAvailIndex,             // avail.idx runs more than the queue's size ahead of what was consumed
  kHeadRange,              // an avail ring entry names no descriptor
  kNextRange,              // a `next` field names no descriptor
  kLoop,                   // a chain longer than its table: it must loop
  kTooManyBuffers,         // more than kMaxChainBuffers
  kTooManyBytes,           // 4 GiB or more in one chain
  kBufferAddress,          // a buffer that is not in guest RAM
  kOrder,                  // a device-readable buffer behind a device-writable one
  kIndirectNotNegotiated,  // VIRTQ_DESC_F_INDIRECT without the feature
  kIndirectNested,         // an indirect descriptor within an indirect table
  kIndirectNext,           // VIRTQ_DESC_F_INDIRECT together with VIRTQ_DESC_F_NEXT
  kBufferSize,             // a buffer too small for what the device has to put into it
  kIndirectTable,  // an indirect table that is empty, not a multiple of 16 bytes, or not in guest
                   // RAM
};

// The fault in words, for a log line.
const char* QueueFaultText(QueueFault fault);

// One descriptor chain, checked: every buffer lies in guest RAM. Its contents are the guest's, who
// may change them at any time. Reuse one object for many chains: it keeps its storage.
class Chain {
 public:
  // The buffers that the device reads, and those that it writes, in order. None is empty.
  std::span<const iovec> readable() const { return {buffers_.data(), readable_count_}; }
  std::span<const iovec> writable() const { return std::span(buffers_).subspan(readable_count_); }
  // The sums of their lengths, bytes; together less than 4 GiB.
  uint32_t readable_bytes() const { return readable_bytes_; }
  uint32_t writable_bytes() const { return writable_bytes_; }

 private:
  friend class Queue;
  std::vector<iovec> buffers_;
  size_t readable_count_ = 0;
  uint32_t readable_bytes_ = 0;
  uint32_t writable_bytes_ = 0;
  uint16_t head_ = 0;
};

// Where the driver has put a queue, and what was negotiated for it.
struct QueueLayout {
  uint16_t size = 0;         // entries: a power of two, 1 to 32768
  uint64_t descriptors = 0;  // guest-physical addresses
  uint64_t driver_area = 0;  // the avail ring
  uint64_t device_area = 0;  // the used ring
  bool indirect = false;     // VIRTIO_F_INDIRECT_DESC
  bool event_index = false;  // VIRTIO_F_EVENT_IDX
};

// How far a device has come with a queue, as counts modulo 2^16. A new queue's is zero.
struct QueuePosition {
  uint16_t next_avail = 0;
  uint16_t next_used = 0;
  uint16_t signalled_used = 0;  // next_used when the driver's wish for interrupts was last asked
};

// Used by one thread. Every public function is safe whatever the guest does to its memory
// meanwhile.
class Queue {
 public:
  // A queue that the driver has not set up: always empty.
  Queue() = default;

  // Checks sizes, alignments (section 2.7) and addresses. `memory` outlives the queue. Errors:
  // ERR_VIRTQUEUE.
  static Result<Queue> Create(const kvm::GuestMemory* memory, const QueueLayout& layout,
                              const QueuePosition& position = {});

  bool ready() const { return memory_ != nullptr; }
  uint16_t size() const { return size_; }
  QueuePosition position() const { return {next_avail_, next_used_, signalled_used_}; }

  // Takes the next chain that the driver has made available. False: there is none, or the queue is
  // broken (see fault()), as it stays from then on.
  bool Pop(Chain* chain);
  // Whether Pop has something to take (or to complain of).
  bool HasAvailable() const;
  // Puts back the `count` chains that were popped last, none of which was added to the used ring.
  void Unpop(uint16_t count = 1) { next_avail_ -= count; }

  // Returns `chain` to the driver, with `written` bytes of its writable part filled from the start.
  void AddUsed(const Chain& chain, uint32_t written);

  // Asks the driver not to kick, while the device is draining the queue anyway.
  void DisableNotification();
  // Asks for kicks again. True: something has come in between, so drain once more.
  bool EnableNotification();
  // Whether the driver wants an interrupt for what was added to the used ring since the last call.
  // Call once for a batch of AddUsed.
  bool NeedsInterrupt();

  QueueFault fault() const { return fault_; }

 private:
  struct Descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
  };
  // A host pointer of type T at byte `offset` from `base`.
  template <typename T>
  static T* At(uint8_t* base, size_t offset) {
    return reinterpret_cast<T*>(base + offset);
  }
  static Descriptor Load(const uint8_t* table, size_t index);
  uint16_t AvailIndex() const;
  bool Walk(uint16_t head, Chain* chain);
  bool WalkIndirect(const Descriptor& descriptor, Chain* chain);
  bool Append(const Descriptor& descriptor, Chain* chain);
  bool Fail(QueueFault fault) {
    fault_ = fault;
    return false;
  }

  const kvm::GuestMemory* memory_ = nullptr;
  uint8_t* descriptors_ = nullptr;
  uint8_t* avail_ = nullptr;
  uint8_t* used_ = nullptr;
  uint16_t size_ = 0;
  bool indirect_ = false;
  bool event_index_ = false;
  QueueFault fault_ = QueueFault::kNone;
  uint16_t next_avail_ = 0;
  uint16_t next_used_ = 0;
  uint16_t signalled_used_ = 0;  // next_used_ at the last NeedsInterrupt
};

}  // namespace clearvm::virtio

#endif  // CLEARVM_VIRTIO_QUEUE_H_
