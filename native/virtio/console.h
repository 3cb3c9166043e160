// virtio-console (virtio 1.2 section 5.3), one port: the guest's hvc0, which carries the kernel
// log.
#ifndef CLEARVM_VIRTIO_CONSOLE_H_
#define CLEARVM_VIRTIO_CONSOLE_H_

#include <functional>
#include <memory>
#include <span>

#include "native/virtio/device.h"

namespace clearvm::virtio {

// Hands every byte that the guest prints to `sink`, on the loop's thread. Input to the guest is not
// offered.
std::unique_ptr<Device> CreateConsole(std::function<void(std::span<const uint8_t>)> sink);

}  // namespace clearvm::virtio

#endif  // CLEARVM_VIRTIO_CONSOLE_H_
