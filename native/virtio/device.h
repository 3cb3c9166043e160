// What every virtio device is to the transport, and what the transport is to a device.
#ifndef CLEARVM_VIRTIO_DEVICE_H_
#define CLEARVM_VIRTIO_DEVICE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "native/base/bytes.h"
#include "native/base/event_loop.h"
#include "native/base/result.h"
#include "native/virtio/queue.h"

namespace clearvm::virtio {

// Device ids, virtio 1.2 section 5.
inline constexpr uint32_t kDeviceIdConsole = 3;
inline constexpr uint32_t kDeviceIdRng = 4;
inline constexpr uint32_t kDeviceIdBalloon = 5;
inline constexpr uint32_t kDeviceId9p = 9;
inline constexpr uint32_t kDeviceIdVsock = 19;

// Feature bits that are the transport's business, virtio 1.2 section 6.
inline constexpr uint64_t kFeatureRingIndirectDesc = 1ull << 28;
inline constexpr uint64_t kFeatureRingEventIdx = 1ull << 29;
inline constexpr uint64_t kFeatureVersion1 = 1ull << 32;

// What a device may ask of its transport. The signals (virtio 1.2 section 2.3) are callable from
// any thread.
class Interrupt {
 public:
  virtual ~Interrupt() = default;
  virtual void SignalUsed() = 0;
  virtual void SignalConfigChange() = 0;
  // The driver broke a queue (`fault`): DEVICE_NEEDS_RESET is set, and HandleQueue is not called
  // until a reset.
  virtual void SignalNeedsReset(QueueFault fault) = 0;
  // Has HandleQueue(queue) called again, after the loop's other events have had their turn.
  virtual void KickAgain(size_t queue) = 0;
};

// A device runs on one EventLoop: the transport calls Activate, Reset and HandleQueue on that
// loop's thread only, so a device needs no lock. The const members are called on vCPU threads.
class Device {
 public:
  virtual ~Device() = default;

  virtual uint32_t device_id() const = 0;
  // Device-specific bits only; the transport adds its own.
  virtual uint64_t features() const { return 0; }
  // The largest size of each queue, a power of two up to 32768.
  virtual std::span<const uint16_t> queue_max_sizes() const = 0;
  // Fills `out`, all zeroes so far, from the configuration space at `offset`: bytes beyond its end
  // stay 0.
  virtual void ReadConfig(uint32_t offset, std::span<uint8_t> out) const = 0;

  // The driver has set DRIVER_OK. `queues` has one entry for each of queue_max_sizes(), some
  // perhaps not ready. The device owns the queues until Reset. HandleQueue follows at once for each
  // queue that is ready.
  virtual Result<void> Activate(uint64_t features, std::vector<Queue> queues,
                                Interrupt* interrupt) = 0;
  // The guest has kicked queue `index`, or may have.
  virtual void HandleQueue(size_t index) = 0;
  // Drops the queues and all work under way.
  virtual void Reset() = 0;

  // For snapshots, while the guest is stopped. How far queue `index` has been served; for a queue
  // that the device never looks at, all zeroes.
  virtual QueuePosition Position(size_t) const { return {}; }
  // What there is to the device beyond its queues and configuration space. Errors:
  // ERR_DEVICE_BUSY: not now.
  virtual Result<void> Save(ByteWriter&) const { return {}; }
  // Takes it back, right after Activate. Errors: ERR_DEVICE_STATE.
  virtual Result<void> Restore(ByteReader&) { return {}; }
};

}  // namespace clearvm::virtio

#endif  // CLEARVM_VIRTIO_DEVICE_H_
