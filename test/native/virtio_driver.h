// The driver's side of a split virtqueue and of virtio-mmio, laid out by hand in guest memory, for
// the tests and fuzzers of native/virtio. Written from the specification, independently of the
// device's side.
#ifndef CLEARVM_TEST_NATIVE_VIRTIO_DRIVER_H_
#define CLEARVM_TEST_NATIVE_VIRTIO_DRIVER_H_

#include <sys/eventfd.h>
#include <time.h>

#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "native/base/event_loop.h"
#include "native/kvm/memory.h"
#include "native/virtio/mmio.h"
#include "native/virtio/queue.h"

namespace clearvm::virtio::testing {

constexpr uint16_t kNextFlag = 1;
constexpr uint16_t kWriteFlag = 2;
constexpr uint16_t kIndirectFlag = 4;

struct Buffer {
  uint64_t address;
  uint32_t length;
  bool writable;
};

// Waits until `condition` holds, at most ten seconds.
inline bool Eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 10000; i++) {
    if (condition()) return true;
    timespec millisecond{0, 1'000'000};
    ::nanosleep(&millisecond, nullptr);
  }
  return false;
}

// Rings at `base`: descriptors, then avail, then used, each at its own page.
class DriverQueue {
 public:
  DriverQueue(const kvm::GuestMemory* memory, uint64_t base, uint16_t size)
      : memory_(memory), base_(base), size_(size) {
    for (uint16_t i = 0; i < size; i++) free_.push_back(i);
    std::memset(memory->Translate(base, Bytes(size)), 0, Bytes(size));
  }

  static uint64_t Page(uint64_t bytes) { return (bytes + 4095) / 4096 * 4096; }
  static uint64_t Bytes(uint16_t size) {
    return Page(16u * size) + Page(2u * size + 6) + Page(8u * size + 6);
  }
  uint64_t descriptors() const { return base_; }
  uint64_t avail() const { return base_ + Page(16u * size_); }
  uint64_t used() const { return avail() + Page(2u * size_ + 6); }
  uint16_t size() const { return size_; }

  QueueLayout Layout(bool indirect, bool event_index) const {
    return {size_, descriptors(), avail(), used(), indirect, event_index};
  }

  // Raw access, for what no honest driver would write.
  void SetDescriptor(uint64_t table, uint16_t index, uint64_t address, uint32_t length,
                     uint16_t flags, uint16_t next) {
    uint8_t* at = memory_->Translate(table + 16u * index, 16);
    std::memcpy(at, &address, 8);
    std::memcpy(at + 8, &length, 4);
    std::memcpy(at + 12, &flags, 2);
    std::memcpy(at + 14, &next, 2);
  }
  void Publish(uint16_t head) {
    Store(avail() + 4 + 2u * (next_avail_ % size_), head);
    next_avail_++;
    Store(avail() + 2, next_avail_);
  }
  void SetAvailIndex(uint16_t index) { Store(avail() + 2, index); }
  void SetAvailFlags(uint16_t flags) { Store(avail(), flags); }
  void SetUsedEvent(uint16_t index) { Store(avail() + 4 + 2u * size_, index); }
  uint16_t AvailEvent() const { return Load(used() + 4 + 8u * size_); }
  uint16_t UsedFlags() const { return Load(used()); }
  uint16_t UsedIndex() const { return Load(used() + 2); }
  uint16_t next_avail() const { return next_avail_; }

  // Whether the device wants a kick for the chains from avail index `before` on.
  bool NeedsKick(uint16_t before, bool event_index) const {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!event_index) return (UsedFlags() & 1) == 0;
    return static_cast<uint16_t>(next_avail_ - AvailEvent() - 1) <
           static_cast<uint16_t>(next_avail_ - before);
  }

  // Makes a chain available, by direct descriptors or, with `table` not 0, by an indirect table
  // there.
  uint16_t Add(const std::vector<Buffer>& buffers, uint64_t table = 0) {
    std::vector<uint16_t> taken;
    const size_t count = table != 0 ? 1 : buffers.size();
    for (size_t i = 0; i < count; i++) {
      taken.push_back(free_.back());
      free_.pop_back();
    }
    for (size_t i = 0; i < buffers.size(); i++) {
      const bool last = i + 1 == buffers.size();
      const uint16_t flags =
          static_cast<uint16_t>((buffers[i].writable ? kWriteFlag : 0) | (last ? 0 : kNextFlag));
      const uint16_t next = last ? 0 : table != 0 ? static_cast<uint16_t>(i + 1) : taken[i + 1];
      SetDescriptor(table != 0 ? table : descriptors(),
                    table != 0 ? static_cast<uint16_t>(i) : taken[i], buffers[i].address,
                    buffers[i].length, flags, next);
    }
    if (table != 0) {
      SetDescriptor(descriptors(), taken[0], table, static_cast<uint32_t>(16 * buffers.size()),
                    kIndirectFlag, 0);
    }
    const uint16_t head = taken[0];
    chains_[head] = taken;
    Publish(head);
    return head;
  }
  size_t free_descriptors() const { return free_.size(); }

  // The next used chain: its head and the bytes written.
  std::optional<std::pair<uint16_t, uint32_t>> Take() {
    if (UsedIndex() == next_used_) return std::nullopt;
    const uint8_t* element = memory_->Translate(used() + 4 + 8u * (next_used_ % size_), 8);
    uint32_t head;
    uint32_t length;
    std::memcpy(&head, element, 4);
    std::memcpy(&length, element + 4, 4);
    next_used_++;
    SetUsedEvent(next_used_);
    for (uint16_t index : chains_[static_cast<uint16_t>(head)]) free_.push_back(index);
    chains_.erase(static_cast<uint16_t>(head));
    return std::pair(static_cast<uint16_t>(head), length);
  }

 private:
  uint16_t Load(uint64_t address) const {
    return __atomic_load_n(reinterpret_cast<uint16_t*>(memory_->Translate(address, 2)),
                           __ATOMIC_SEQ_CST);
  }
  void Store(uint64_t address, uint16_t value) {
    __atomic_store_n(reinterpret_cast<uint16_t*>(memory_->Translate(address, 2)), value,
                     __ATOMIC_SEQ_CST);
  }

  const kvm::GuestMemory* memory_;
  uint64_t base_;
  uint16_t size_;
  uint16_t next_avail_ = 0;
  uint16_t next_used_ = 0;
  std::vector<uint16_t> free_;
  std::map<uint16_t, std::vector<uint16_t>> chains_;
};

// A device behind its transport, the loop it runs on in a thread of its own, and a driver for it.
class DeviceFixture {
 public:
  explicit DeviceFixture(uint64_t memory_size = 32 << 20)
      : memory_(std::move(kvm::GuestMemory::Create(memory_size, kvm::Backing::kAnonymous)).value()),
        loop_(std::move(EventLoop::Create()).value()) {}
  ~DeviceFixture() {
    StopLoop();
    transport_.reset();
  }

  kvm::GuestMemory* memory() { return &memory_; }
  EventLoop* loop() { return loop_.get(); }
  MmioTransport* transport() { return transport_.get(); }
  DriverQueue& queue(size_t index) { return *queues_[index]; }

  void Attach(std::unique_ptr<Device> device) {
    irq_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    transport_ =
        std::move(MmioTransport::Create(std::move(device), &memory_, loop_.get(), UniqueFd(irq_)))
            .value();
  }
  // What a snapshot would hold of the device.
  Result<void> Save(ByteWriter* out) {
    Result<void> saved;
    loop_->Call([&] { saved = transport_->Save(*out); });
    return saved;
  }
  // Has another device take the place of this one, with `state`, on a loop of its own. The driver
  // goes on with its queues.
  Result<void> Restore(const std::function<std::unique_ptr<Device>(EventLoop*)>& make,
                       std::span<const uint8_t> state) {
    StopLoop();
    transport_.reset();
    loop_ = std::move(EventLoop::Create()).value();
    Attach(make(loop_.get()));
    ByteReader in(state);
    CLEARVM_RETURN_IF_ERROR(transport_->Restore(in));
    if (!in.Finished()) return Error{"ERR_TEST", 0, "", "state is left over, or was too short"};
    StartLoop();
    return {};
  }
  void StartLoop() {
    thread_ = std::thread([this] { (void)loop_->Run(); });
  }
  void StopLoop() {
    if (!thread_.joinable()) return;
    loop_->Stop();
    thread_.join();
  }

  uint32_t Read(uint64_t offset) {
    uint32_t value = 0;
    transport_->Read(offset, {reinterpret_cast<uint8_t*>(&value), 4});
    return value;
  }
  void Write(uint64_t offset, uint32_t value) {
    transport_->Write(offset, {reinterpret_cast<const uint8_t*>(&value), 4});
  }

  // Section 3.1.1, up to and with FEATURES_OK. True: the device has taken the features.
  bool Negotiate(uint64_t features) {
    Write(0x70, 0);
    Write(0x70, 1);
    Write(0x70, 1 | 2);
    Write(0x24, 0);
    Write(0x20, static_cast<uint32_t>(features));
    Write(0x24, 1);
    Write(0x20, static_cast<uint32_t>(features >> 32));
    Write(0x70, 1 | 2 | 8);
    event_index_ = (features & kFeatureRingEventIdx) != 0;
    return (Read(0x70) & 8) != 0;
  }
  // Sets up queue `index` with `size` entries (0: the most). True: it is ready.
  bool SetUpQueue(uint32_t index, uint16_t size = 0) {
    Write(0x30, index);
    const auto entries = size != 0 ? size : static_cast<uint16_t>(Read(0x34));
    if (queues_.size() <= index) queues_.resize(index + 1);
    queues_[index] = std::make_unique<DriverQueue>(&memory_, 0x10'0000 + index * 0x1'0000, entries);
    const DriverQueue& queue = *queues_[index];
    Write(0x38, entries);
    Write(0x80, static_cast<uint32_t>(queue.descriptors()));
    Write(0x84, 0);
    Write(0x90, static_cast<uint32_t>(queue.avail()));
    Write(0x94, 0);
    Write(0xa0, static_cast<uint32_t>(queue.used()));
    Write(0xa4, 0);
    Write(0x44, 1);
    return Read(0x44) == 1;
  }
  // The whole of section 3.1.1, with all queues.
  bool Start(uint64_t features = kFeatureVersion1 | kFeatureRingEventIdx |
                                 kFeatureRingIndirectDesc) {
    if (!Negotiate(features)) return false;
    for (uint32_t i = 0; i < transport_->queue_count(); i++) {
      if (!SetUpQueue(i)) return false;
    }
    Write(0x70, 1 | 2 | 8 | 4);
    return (Read(0x70) & 0x4f) == 15;
  }
  void Kick(uint32_t index) { Write(0x50, index); }
  // As a driver kicks: only where the device wants it. Counts those kicks.
  void KickIfNeeded(uint32_t index, uint16_t before) {
    if (!queues_[index]->NeedsKick(before, event_index_)) return;
    kicks_++;
    Kick(index);
  }
  uint64_t kicks() const { return kicks_; }
  // Interrupts since the last call.
  uint64_t TakeInterrupts() {
    uint64_t count = 0;
    return ::read(irq_, &count, sizeof count) == sizeof count ? count : 0;
  }
  uint8_t* At(uint64_t address, uint64_t length) { return memory_.Translate(address, length); }

 private:
  kvm::GuestMemory memory_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<MmioTransport> transport_;
  int irq_ = -1;
  bool event_index_ = false;
  uint64_t kicks_ = 0;
  std::vector<std::unique_ptr<DriverQueue>> queues_;
  std::thread thread_;
};

}  // namespace clearvm::virtio::testing

#endif  // CLEARVM_TEST_NATIVE_VIRTIO_DRIVER_H_
