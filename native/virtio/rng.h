// virtio-rng (virtio 1.2 section 5.4): entropy from getrandom(2).
#ifndef CLEARVM_VIRTIO_RNG_H_
#define CLEARVM_VIRTIO_RNG_H_

#include <memory>

#include "native/virtio/device.h"

namespace clearvm::virtio {

// `silent`: takes requests and never answers, so that a snapshot holds no random bytes which all of
// its forks would be given; a fork's device answers what is left.
std::unique_ptr<Device> CreateRng(bool silent = false);

}  // namespace clearvm::virtio

#endif  // CLEARVM_VIRTIO_RNG_H_
