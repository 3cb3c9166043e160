// virtio-balloon (virtio 1.2 section 5.5): memory that the guest does not use goes back to the
// host.
#ifndef CLEARVM_VIRTIO_BALLOON_H_
#define CLEARVM_VIRTIO_BALLOON_H_

#include <cstdint>
#include <memory>

#include "native/kvm/memory.h"
#include "native/virtio/device.h"

namespace clearvm::virtio {

// The guest reports what has been free for two seconds or so (VIRTIO_BALLOON_F_REPORTING), and
// keeps `inflated` pages of 4096 bytes to itself from the start, which it takes back before it
// would run out of memory (VIRTIO_BALLOON_F_DEFLATE_ON_OOM). `memory` outlives the device.
std::unique_ptr<Device> CreateBalloon(const kvm::GuestMemory* memory, uint32_t inflated);

}  // namespace clearvm::virtio

#endif  // CLEARVM_VIRTIO_BALLOON_H_
