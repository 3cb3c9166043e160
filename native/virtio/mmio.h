// The virtio-mmio transport, version 2: virtio 1.2 section 4.2.
#ifndef CLEARVM_VIRTIO_MMIO_H_
#define CLEARVM_VIRTIO_MMIO_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "native/base/event_loop.h"
#include "native/base/fd.h"
#include "native/kvm/memory.h"
#include "native/virtio/device.h"

namespace clearvm::virtio {

// Bytes of guest-physical address space that one device takes.
inline constexpr uint64_t kMmioSize = 0x1000;
// Offset of QueueNotify: where the machine registers the ioeventfds (KVM_IOEVENTFD, 4 bytes, datamatch = queue).
inline constexpr uint64_t kMmioQueueNotify = 0x50;

// One device's register block. Read and Write are called by vCPU threads, any number at once.
class MmioTransport {
 public:
  // `memory` and `loop` outlive the transport. Writing 1 to `irq` (an eventfd, taken over) raises the device's interrupt.
  static Result<std::unique_ptr<MmioTransport>> Create(std::unique_ptr<Device> device,
                                                       const kvm::GuestMemory* memory, EventLoop* loop,
                                                       UniqueFd irq);
  ~MmioTransport();

  void Read(uint64_t offset, std::span<uint8_t> out);
  void Write(uint64_t offset, std::span<const uint8_t> data);

  size_t queue_count() const;
  // The eventfd that stands for a write of `queue` to QueueNotify.
  int kick_fd(size_t queue) const;
  int irq_fd() const;
  Device* device() const;

 private:
  struct State;
  explicit MmioTransport(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace clearvm::virtio

#endif  // CLEARVM_VIRTIO_MMIO_H_
