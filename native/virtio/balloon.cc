#include "native/virtio/balloon.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "native/virtio/drain.h"

namespace clearvm::virtio {
namespace {

// Section 5.5.3. There are no statistics and no free page hints: without their features, the
// reporting queue comes third (section 5.5.2).
constexpr uint64_t kFeatureDeflateOnOom = 1ull << 2;
constexpr uint64_t kFeatureReporting = 1ull << 5;

// Deflating is queue 1: nothing is to be done for it.
constexpr size_t kInflate = 0;
constexpr size_t kReporting = 2;
constexpr std::array<uint16_t, 3> kQueueSizes = {16, 16, 32};
constexpr int kBudget = 16;
constexpr uint64_t kPage = 4096;

class Balloon final : public Device {
 public:
  Balloon(const kvm::GuestMemory* memory, uint32_t inflated)
      : memory_(memory), inflated_(inflated) {}

  uint32_t device_id() const override { return kDeviceIdBalloon; }
  uint64_t features() const override { return kFeatureDeflateOnOom | kFeatureReporting; }
  std::span<const uint16_t> queue_max_sizes() const override { return kQueueSizes; }

  // num_pages; `actual`, behind it, is the driver's to write, and of no interest.
  void ReadConfig(uint32_t offset, std::span<uint8_t> out) const override {
    if (offset >= sizeof inflated_) return;
    const auto* config = reinterpret_cast<const uint8_t*>(&inflated_);
    std::memcpy(out.data(), config + offset, std::min(out.size(), sizeof inflated_ - offset));
  }

  Result<void> Activate(uint64_t, std::vector<Queue> queues, Interrupt* interrupt) override {
    queues_ = std::move(queues);
    interrupt_ = interrupt;
    return {};
  }

  // A template's guest has been told of no balloon.
  Result<void> Restore(ByteReader&) override {
    if (inflated_ != 0) interrupt_->SignalConfigChange();
    return {};
  }

  void HandleQueue(size_t index) override {
    Drain(queues_[index], index, interrupt_, &chain_, kBudget, [this, index](const Chain& chain) {
      if (index == kInflate) TakePages(chain);
      if (index == kReporting) {
        for (const iovec& range : chain.writable()) {
          memory_->Discard(static_cast<uint8_t*>(range.iov_base), range.iov_len);
        }
      }
      return 0u;  // what is deflated comes back as it is touched
    });
  }

  void Reset() override { queues_.assign(kQueueSizes.size(), {}); }
  QueuePosition Position(size_t index) const override { return queues_[index].position(); }

 private:
  // An array of 32-bit page numbers (section 5.5.6). Neighbours go together, up or down.
  void TakePages(const Chain& chain) {
    uint64_t first = 0;
    uint64_t end = 0;
    const auto flush = [&] {
      if (uint8_t* host = memory_->Translate(first * kPage, (end - first) * kPage)) {
        memory_->Discard(host, (end - first) * kPage);
      }
    };
    for (const iovec& part : chain.readable()) {
      const auto* bytes = static_cast<const uint8_t*>(part.iov_base);
      for (size_t i = 0; i + sizeof(uint32_t) <= part.iov_len; i += sizeof(uint32_t)) {
        uint32_t page;
        std::memcpy(&page, bytes + i, sizeof page);
        if (page == end && end != first) {
          end++;
        } else if (page + 1ull == first) {
          first--;
        } else {
          flush();
          first = page;
          end = page + 1ull;
        }
      }
    }
    flush();
  }

  const kvm::GuestMemory* memory_;
  const uint32_t inflated_;  // little-endian, as the host is
  std::vector<Queue> queues_{kQueueSizes.size()};
  Chain chain_;
  Interrupt* interrupt_ = nullptr;
};

}  // namespace

std::unique_ptr<Device> CreateBalloon(const kvm::GuestMemory* memory, uint32_t inflated) {
  return std::make_unique<Balloon>(memory, inflated);
}

}  // namespace clearvm::virtio
