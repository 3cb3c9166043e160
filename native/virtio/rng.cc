#include "native/virtio/rng.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <utility>

#include "native/virtio/drain.h"

namespace clearvm::virtio {
namespace {

constexpr std::array<uint16_t, 1> kQueueSizes = {8};
// The most that one request gets: the rest of its buffer stays unused, as section 5.4.6 allows.
// Bounds what a guest can make the loop's thread compute at a time.
constexpr size_t kMaxBytes = 4096;
constexpr int kBudget = 16;

uint32_t Fill(std::span<const iovec> buffers) {
  size_t total = 0;
  for (const iovec& part : buffers) {
    const size_t want = std::min(part.iov_len, kMaxBytes - total);
    if (want == 0) break;
    const ssize_t got = ::getrandom(part.iov_base, want, 0);
    if (got <= 0) break;
    total += static_cast<size_t>(got);
    if (static_cast<size_t>(got) < part.iov_len) break;
  }
  return static_cast<uint32_t>(total);
}

class Rng final : public Device {
 public:
  explicit Rng(bool silent) : silent_(silent) {}

  uint32_t device_id() const override { return kDeviceIdRng; }
  std::span<const uint16_t> queue_max_sizes() const override { return kQueueSizes; }
  void ReadConfig(uint32_t, std::span<uint8_t>) const override {}

  Result<void> Activate(uint64_t, std::vector<Queue> queues, Interrupt* interrupt) override {
    requests_ = std::move(queues[0]);
    interrupt_ = interrupt;
    return {};
  }

  void HandleQueue(size_t) override {
    if (silent_) return;
    Drain(requests_, 0, interrupt_, &chain_, kBudget,
          [](const Chain& chain) { return Fill(chain.writable()); });
  }

  void Reset() override { requests_ = Queue(); }
  QueuePosition Position(size_t) const override { return requests_.position(); }

 private:
  const bool silent_;
  Queue requests_;
  Chain chain_;
  Interrupt* interrupt_ = nullptr;
};

}  // namespace

std::unique_ptr<Device> CreateRng(bool silent) { return std::make_unique<Rng>(silent); }

}  // namespace clearvm::virtio
