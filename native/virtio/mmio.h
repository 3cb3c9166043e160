// The virtio-mmio transport, version 2: virtio 1.2 section 4.2.
#ifndef CLEARVM_VIRTIO_MMIO_H_
#define CLEARVM_VIRTIO_MMIO_H_

#include <cstdint>
#include <memory>
#include <span>

#include "native/base/bytes.h"
#include "native/base/event_loop.h"
#include "native/base/fd.h"
#include "native/kvm/memory.h"
#include "native/virtio/device.h"

namespace clearvm::virtio {

// Bytes of guest-physical address space that one device takes.
inline constexpr uint64_t kMmioSize = 0x1000;
// Offset of QueueNotify: where the machine registers the ioeventfds (KVM_IOEVENTFD, 4 bytes,
// datamatch = queue).
inline constexpr uint64_t kMmioQueueNotify = 0x50;

// Offset of InterruptACK. The machine may have KVM swallow its writes: InterruptStatus then says
// for ever that buffers were used, as with a device that has used one more meanwhile, and drivers
// look at their queues at each interrupt anyway.
inline constexpr uint64_t kMmioInterruptAck = 0x64;

// Registers that only take parameters: a write to them has no effect until one to another register
// (QueueReady, Status) asks for it, so their writes may be collected and delivered before the next
// other access of the same vCPU.
struct RegisterRange {
  uint64_t offset;
  uint64_t size;  // bytes
};
inline constexpr RegisterRange kMmioParameters[] = {
    {0x20, 8},     // DriverFeatures, DriverFeaturesSel
    {0x38, 4},     // QueueNum
    {0x80, 0x28},  // QueueDesc, QueueDriver, QueueDevice
};

// One device's register block. Read and Write are called by vCPU threads, any number at once.
// Writes may come by KVM_REGISTER_COALESCED_MMIO but for QueueNotify, InterruptACK (0x64: a late
// one would acknowledge what came after it) and Status (0x70).
//
// Status 0 resets: it waits for the loop's thread to drop the queues, so that a driver which does
// not read the status back (Linux's) may free them at once; but at most a second, after which
// Status reads as not 0 until they are dropped. QueueReady 0 on a live queue stops the whole device
// the same way (DEVICE_NEEDS_RESET).
class MmioTransport {
 public:
  // `memory` and `loop` outlive the transport, which is destroyed on the loop's thread or while it
  // does not run. Writing 1 to `irq` (an eventfd, taken over) raises the device's interrupt.
  // Errors: ERR_VIRTIO_EVENTFD, ERR_EVENT_LOOP.
  static Result<std::unique_ptr<MmioTransport>> Create(std::unique_ptr<Device> device,
                                                       const kvm::GuestMemory* memory,
                                                       EventLoop* loop, UniqueFd irq,
                                                       uint8_t* registers = nullptr);
  ~MmioTransport();

  // `offset`: bytes from the start of the block. Accesses that the specification does not allow
  // read 0 and write nothing.
  void Read(uint64_t offset, std::span<uint8_t> out);
  void Write(uint64_t offset, std::span<const uint8_t> data);

  // The registers and the device, for snapshots: while the guest is stopped and all that it has
  // asked for is done, on the loop's thread or while that does not run. Restore: into a transport
  // that is new; the device then looks at all of its queues. Errors: the device's,
  // ERR_DEVICE_STATE.
  Result<void> Save(ByteWriter& out) const;
  Result<void> Restore(ByteReader& in);

  // Raises the interrupt, for a driver that one may have been lost to: it looks at its queues.
  void Nudge();

  EventLoop* loop() const;
  size_t queue_count() const;
  // The eventfd that stands for a write of `queue` to QueueNotify.
  int kick_fd(size_t queue) const;
  int irq_fd() const;
  Device* device() const;

 private:
  struct State;
  explicit MmioTransport(std::shared_ptr<State> state);
  // Shared with the tasks posted to the loop, which may outlive the transport.
  std::shared_ptr<State> state_;
};

}  // namespace clearvm::virtio

#endif  // CLEARVM_VIRTIO_MMIO_H_
