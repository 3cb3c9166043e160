#include "native/virtio/console.h"

#include <algorithm>
#include <array>
#include <utility>

#include "native/virtio/drain.h"

namespace clearvm::virtio {
namespace {

// Linux fills the whole receive queue with pages when it probes the device, and we never use one:
// so it is as small as can be.
constexpr std::array<uint16_t, 2> kQueueSizes = {2, 64};
constexpr size_t kTransmit = 1;
// Chains handled before the loop's other events have their turn.
constexpr int kBudget = 64;
// What is taken of one chain; the rest is dropped. Linux sends lines; only a guest that means harm
// sends more.
constexpr size_t kMaxBytes = 64 * 1024;

class Console final : public Device {
 public:
  explicit Console(std::function<void(std::span<const uint8_t>)> sink) : sink_(std::move(sink)) {}

  uint32_t device_id() const override { return kDeviceIdConsole; }
  std::span<const uint16_t> queue_max_sizes() const override { return kQueueSizes; }
  // Neither VIRTIO_CONSOLE_F_SIZE nor _MULTIPORT is offered, so every field is 0, which Read has
  // filled in.
  void ReadConfig(uint32_t, std::span<uint8_t>) const override {}

  Result<void> Activate(uint64_t, std::vector<Queue> queues, Interrupt* interrupt) override {
    transmit_ = std::move(queues[kTransmit]);
    interrupt_ = interrupt;
    return {};
  }

  void HandleQueue(size_t index) override {
    if (index != kTransmit) return;
    Drain(transmit_, kTransmit, interrupt_, &chain_, kBudget, [this](const Chain& chain) {
      size_t left = kMaxBytes;
      for (const iovec& part : chain.readable()) {
        const size_t length = std::min(part.iov_len, left);
        if (length != 0) sink_({static_cast<const uint8_t*>(part.iov_base), length});
        left -= length;
      }
      return 0u;
    });
  }

  void Reset() override { transmit_ = Queue(); }
  QueuePosition Position(size_t index) const override {
    return index == kTransmit ? transmit_.position() : QueuePosition{};
  }

 private:
  std::function<void(std::span<const uint8_t>)> sink_;
  Queue transmit_;
  Chain chain_;
  Interrupt* interrupt_ = nullptr;
};

}  // namespace

std::unique_ptr<Device> CreateConsole(std::function<void(std::span<const uint8_t>)> sink) {
  return std::make_unique<Console>(std::move(sink));
}

}  // namespace clearvm::virtio
