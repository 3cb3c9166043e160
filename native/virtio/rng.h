// virtio-rng (virtio 1.2 section 5.4): entropy from getrandom(2).
#ifndef CLEARVM_VIRTIO_RNG_H_
#define CLEARVM_VIRTIO_RNG_H_

#include <memory>

#include "native/virtio/device.h"

namespace clearvm::virtio {

std::unique_ptr<Device> CreateRng();

}  // namespace clearvm::virtio

#endif  // CLEARVM_VIRTIO_RNG_H_
