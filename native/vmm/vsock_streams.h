// Execs' streams as ports of the vsock device.
#ifndef CLEARVM_VMM_VSOCK_STREAMS_H_
#define CLEARVM_VMM_VSOCK_STREAMS_H_

#include <memory>
#include <utility>

#include "native/base/event_loop.h"
#include "native/virtio/host_fd.h"
#include "native/virtio/vsock.h"
#include "native/vmm/execs.h"

namespace clearvm::vmm {

// Called on the main loop's thread; acts on the device's own.
class VsockStreams final : public Streams {
 public:
  // `loop` is the device's. `proc_self_fd`: an open /proc/self/fd.
  VsockStreams(virtio::Vsock* vsock, EventLoop* loop, UniqueFd proc_self_fd)
      : vsock_(vsock), loop_(loop), proc_self_fd_(std::move(proc_self_fd)) {}

  Result<void> Open(uint32_t port, UniqueFd in, UniqueFd out) override {
    using virtio::HostFd;
    // Shared, because a task must be copyable.
    auto read = std::make_shared<HostFd>();
    auto write = std::make_shared<HostFd>();
    if (in.valid()) {
      CLEARVM_ASSIGN(*read, HostFd::AdoptForeign(std::move(in), HostFd::Direction::kRead,
                                                 proc_self_fd_.get()));
    }
    if (out.valid()) {
      CLEARVM_ASSIGN(*write, HostFd::AdoptForeign(std::move(out), HostFd::Direction::kWrite,
                                                  proc_self_fd_.get()));
    }
    loop_->Post([vsock = vsock_, port, read, write] {
      vsock->AddPort(port, CLEARVM_PORT_GUEST_LIMIT, std::move(*read), std::move(*write));
    });
    return {};
  }
  void Change(uint32_t port, virtio::Vsock::PortChange change) override {
    loop_->Post([vsock = vsock_, port, change] { vsock->ChangePort(port, change); });
  }

 private:
  virtio::Vsock* const vsock_;
  EventLoop* const loop_;
  const UniqueFd proc_self_fd_;
};

}  // namespace clearvm::vmm

#endif  // CLEARVM_VMM_VSOCK_STREAMS_H_
