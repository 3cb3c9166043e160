// Feeds the split virtqueue with rings of any content. Input: queue size (log2), feature bits, then
// the image of the guest's first pages, rings included.
#include <cstdint>
#include <cstring>

#include "native/virtio/queue.h"

using clearvm::kvm::Backing;
using clearvm::kvm::GuestMemory;
using clearvm::virtio::Chain;
using clearvm::virtio::kMaxChainBuffers;
using clearvm::virtio::Queue;
using clearvm::virtio::QueueFault;
using clearvm::virtio::QueueLayout;

namespace {

constexpr uint64_t kRam = 16 * 4096;

void Check(bool holds) {
  if (!holds) __builtin_trap();
}

void CheckBuffers(const GuestMemory& memory, std::span<const iovec> buffers, uint64_t total) {
  const auto* ram = memory.regions()[0].host_address;
  uint64_t sum = 0;
  for (const iovec& buffer : buffers) {
    const auto* at = static_cast<const uint8_t*>(buffer.iov_base);
    Check(at >= ram && buffer.iov_len != 0 && buffer.iov_len <= kRam &&
          static_cast<uint64_t>(at - ram) <= kRam - buffer.iov_len);
    sum += buffer.iov_len;
  }
  Check(sum == total);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static GuestMemory* const memory =
      new GuestMemory(std::move(GuestMemory::Create(kRam, Backing::kAnonymous)).value());
  if (size < 2) return 0;
  QueueLayout layout;
  layout.size = static_cast<uint16_t>(1u << (data[0] % 8));
  layout.indirect = (data[1] & 1) != 0;
  layout.event_index = (data[1] & 2) != 0;
  layout.descriptors = 0;
  layout.driver_area = 2048;
  layout.device_area = 4096;
  uint8_t* ram = memory->Translate(0, kRam);
  std::memset(ram, 0, kRam);
  std::memcpy(ram, data + 2, size - 2 < kRam ? size - 2 : kRam);

  Queue queue = std::move(Queue::Create(memory, layout)).value();
  Chain chain;
  // The driver's memory does not change by itself here, so a queue holds at most `size` chains; but
  // what the device writes (used ring, buffers) may well be the driver's rings.
  for (int i = 0; i < 300 && queue.Pop(&chain); i++) {
    Check(chain.readable().size() + chain.writable().size() <= kMaxChainBuffers);
    CheckBuffers(*memory, chain.readable(), chain.readable_bytes());
    CheckBuffers(*memory, chain.writable(), chain.writable_bytes());
    if (i % 5 == 4) {
      queue.Unpop();
      continue;
    }
    for (const iovec& buffer : chain.writable()) {
      std::memset(buffer.iov_base, i, buffer.iov_len < 64 ? buffer.iov_len : 64);
    }
    queue.AddUsed(chain, chain.writable_bytes());
    if (i % 3 == 0) queue.NeedsInterrupt();
    if (i % 7 == 0) queue.DisableNotification();
    if (i % 7 == 3) queue.EnableNotification();
  }
  if (queue.fault() != QueueFault::kNone) Check(!queue.Pop(&chain) && !queue.EnableNotification());
  return 0;
}
