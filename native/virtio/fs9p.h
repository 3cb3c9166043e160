// virtio-9p: carries 9P2000.L messages between the guest's v9fs and a p9::Server.
#ifndef CLEARVM_VIRTIO_FS9P_H_
#define CLEARVM_VIRTIO_FS9P_H_

#include <memory>
#include <string>

#include "native/p9/server.h"
#include "native/virtio/device.h"

namespace clearvm::virtio {

// `tag`: the mount tag, 1 to 31 bytes of [A-Za-z0-9_.-]. Without a server every request is answered
// by an error: a device that a guest has, and that nobody uses. Errors: ERR_9P_TAG.
// `window`: where the guest has what the server shows (p9::Export::window); a template's device has
// one before it has a server.
struct WindowPlace {
  uint64_t address = 0;  // guest-physical
  uint64_t size = 0;     // bytes; 0: there is none
};
Result<std::unique_ptr<Device>> Create9p(std::string tag, std::unique_ptr<p9::Server> server,
                                         WindowPlace window = {});

}  // namespace clearvm::virtio

#endif  // CLEARVM_VIRTIO_FS9P_H_
