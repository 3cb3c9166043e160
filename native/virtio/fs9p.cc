#include "native/virtio/fs9p.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "native/virtio/buffers.h"
#include "native/virtio/drain.h"

namespace clearvm::virtio {
namespace {

// Linux's v9fs uses at most 128 buffers for a request (VIRTQUEUE_NUM), whatever the queue's size.
constexpr std::array<uint16_t, 1> kQueueSizes = {128};
constexpr uint64_t kFeatureMountTag = 1;
// Ours (guest-kernel/patches): the configuration space names guest memory that shows files.
constexpr uint64_t kFeatureWindow = 1ull << 22;
constexpr size_t kWindowOffset = 40;
constexpr size_t kMaxTag = 31;
constexpr int kBudget = 64;
constexpr uint8_t kRlerror = 7;

// Answers any request with Rlerror: size[4] type[1] tag[2] ecode[4], with the request's own tag.
uint32_t Refuse(const Chain& chain) {
  struct [[gnu::packed]] {
    uint32_t size;
    uint8_t type;
    uint16_t tag;
    uint32_t error;
  } message;
  constexpr uint32_t kHeader = 7;
  if (chain.readable_bytes() < kHeader || chain.writable_bytes() < sizeof message) return 0;
  CopyFrom(chain.readable(), &message, kHeader);
  message.size = sizeof message;
  message.type = kRlerror;
  message.error = ENODEV;
  CopyTo(chain.writable(), &message, sizeof message);
  return sizeof message;
}

class Fs9p final : public Device {
 public:
  Fs9p(const std::string& tag, std::unique_ptr<p9::Server> server, WindowPlace window)
      : server_(std::move(server)), features_(kFeatureMountTag) {
    // struct virtio_9p_config: le16 tag_len, then the tag.
    config_ = {static_cast<uint8_t>(tag.size()), 0};
    for (char c : tag) config_.push_back(static_cast<uint8_t>(c));
    if (window.size == 0) return;
    features_ |= kFeatureWindow;
    config_.resize(kWindowOffset + sizeof window);
    std::memcpy(config_.data() + kWindowOffset, &window, sizeof window);
  }

  uint32_t device_id() const override { return kDeviceId9p; }
  uint64_t features() const override { return features_; }
  std::span<const uint16_t> queue_max_sizes() const override { return kQueueSizes; }
  void ReadConfig(uint32_t offset, std::span<uint8_t> out) const override {
    if (offset >= config_.size()) return;
    std::memcpy(out.data(), config_.data() + offset, std::min(out.size(), config_.size() - offset));
  }

  Result<void> Activate(uint64_t features, std::vector<Queue> queues,
                        Interrupt* interrupt) override {
    if (server_ != nullptr && (features & kFeatureWindow) != 0) server_->UseWindow();
    requests_ = std::move(queues[0]);
    interrupt_ = interrupt;
    return {};
  }

  void HandleQueue(size_t) override {
    Drain(requests_, 0, interrupt_, &chain_, kBudget, [this](const Chain& chain) {
      return server_ == nullptr
                 ? Refuse(chain)
                 : static_cast<uint32_t>(server_->Handle(chain.readable(), chain.writable()));
    });
  }

  void Reset() override {
    requests_ = Queue();
    if (server_ != nullptr) server_->Reset();
  }
  QueuePosition Position(size_t) const override { return requests_.position(); }

  // Without a server there is nothing to it: a template's device becomes any container's.
  Result<void> Save(ByteWriter& out) const override {
    if (requests_.ready() && requests_.HasAvailable()) {
      return Error{"ERR_DEVICE_BUSY", 0, "", "a 9p device has requests to serve"};
    }
    out.Put(static_cast<uint8_t>(server_ == nullptr ? 0 : 1));
    return server_ == nullptr ? Result<void>() : server_->Save(out);
  }
  Result<void> Restore(ByteReader& in) override {
    if (in.Take<uint8_t>() == 0) return {};
    if (server_ != nullptr) return server_->Restore(in);
    return Error{"ERR_DEVICE_STATE", 0, "", "the saved 9p device served files"};
  }

 private:
  std::unique_ptr<p9::Server> server_;
  uint64_t features_;
  std::vector<uint8_t> config_;
  Queue requests_;
  Chain chain_;
  Interrupt* interrupt_ = nullptr;
};

}  // namespace

Result<std::unique_ptr<Device>> Create9p(std::string tag, std::unique_ptr<p9::Server> server,
                                         WindowPlace window) {
  const auto allowed = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '.' || c == '-';
  };
  if (tag.empty() || tag.size() > kMaxTag || !std::all_of(tag.begin(), tag.end(), allowed)) {
    return Error{"ERR_9P_TAG", 0, "",
                 "the mount tag \"" + tag + "\" is not 1 to 31 characters of A-Z a-z 0-9 _ . -"};
  }
  return std::unique_ptr<Device>(std::make_unique<Fs9p>(tag, std::move(server), window));
}

}  // namespace clearvm::virtio
