#include "native/kvm/ioapic.h"

#include <algorithm>
#include <utility>

namespace clearvm::kvm {
namespace {

// Memory-mapped registers, 82093AA section 3.1.
constexpr uint64_t kSelect = 0x00;
constexpr uint64_t kWindow = 0x10;

// Indirect registers, section 3.2.
constexpr uint32_t kIndexId = 0x00;
constexpr uint32_t kIndexVersion = 0x01;
constexpr uint32_t kIndexArbitration = 0x02;
constexpr uint32_t kIndexRedirection = 0x10;
constexpr uint32_t kVersion = 0x11;

// Redirection entries, section 3.2.4.
constexpr uint64_t kVectorAndMode = 0x7ff;
constexpr uint64_t kDestinationLogical = 1ull << 11;
constexpr uint64_t kDeliveryStatus = 1ull << 12;
constexpr uint64_t kRemoteIrr = 1ull << 14;
constexpr uint64_t kLevelTriggered = 1ull << 15;
constexpr uint64_t kMasked = 1ull << 16;
constexpr uint64_t kWritable = 0xff00'0000'0001'ffff & ~(kDeliveryStatus | kRemoteIrr);
constexpr unsigned kDeliveryModeShift = 8;
constexpr unsigned kDestinationShift = 56;

constexpr uint64_t kMsiAddress = 0xfee0'0000;
constexpr unsigned kMsiDestinationShift = 12;
constexpr uint64_t kMsiDestinationLogical = 1ull << 2;
constexpr uint32_t kMsiAssert = 1u << 14;
constexpr uint32_t kMsiLevelTriggered = 1u << 15;

// Whether an entry sends something: not masked, and fixed, lowest priority or NMI. SMI and INIT
// have no meaning from a device of ours, and there is no PIC whose vector ExtINT could ask for.
bool Sends(uint64_t entry) {
  const uint64_t mode = (entry >> kDeliveryModeShift) & 7;
  return (entry & kMasked) == 0 && (mode == 0 || mode == 1 || mode == 4);
}

Msi ToMsi(uint64_t entry) {
  Msi msi;
  msi.address = kMsiAddress | (entry >> kDestinationShift) << kMsiDestinationShift;
  if ((entry & kDestinationLogical) != 0) msi.address |= kMsiDestinationLogical;
  msi.data = static_cast<uint32_t>(entry & kVectorAndMode);
  // The local APIC has to know a level-triggered vector for one (the guest looks at its TMR). The
  // level itself is never held: an irqfd sends one message for each event, as a device does that is
  // edge-triggered.
  if ((entry & kLevelTriggered) != 0) msi.data |= kMsiLevelTriggered | kMsiAssert;
  return msi;
}

}  // namespace

Ioapic::Ioapic(uint32_t pins, SetRoutes set_routes) : set_routes_(std::move(set_routes)) {
  redirection_.assign(std::clamp(pins, 1u, kIoapicMaxPins), kMasked);
}

void Ioapic::Read(uint64_t offset, std::span<uint8_t> out) {
  std::lock_guard lock(mutex_);
  uint32_t value = 0;
  if (offset == kSelect) value = select_;
  if (offset == kWindow) value = ReadRegister();
  for (uint8_t& byte : out) {  // more than 4 bytes: zeros
    byte = static_cast<uint8_t>(value);
    value >>= 8;
  }
}

Result<void> Ioapic::Write(uint64_t offset, std::span<const uint8_t> data) {
  std::lock_guard lock(mutex_);
  uint32_t value = 0;
  for (size_t i = 0; i < std::min(data.size(), sizeof(value)); ++i) {
    value |= static_cast<uint32_t>(data[i]) << (8 * i);
  }
  if (offset == kSelect) {
    select_ = value & 0xff;
  } else if (offset == kWindow && data.size() == sizeof(value) && WriteRegister(value)) {
    return UpdateRoutes();
  }
  return {};
}

void Ioapic::Save(ByteWriter& out) {
  std::lock_guard lock(mutex_);
  out.Put(select_);
  out.Put(id_);
  out.PutList(std::span<const uint64_t>(redirection_));
}

Result<void> Ioapic::Restore(ByteReader& in) {
  std::lock_guard lock(mutex_);
  select_ = in.Take<uint32_t>() & 0xff;
  id_ = in.Take<uint8_t>();
  std::vector<uint64_t> entries = in.TakeList<uint64_t>(kIoapicMaxPins);
  if (entries.size() != redirection_.size()) {
    return Error{"ERR_KVM_IOAPIC_STATE", 0, "", "the IOAPIC's state has another number of pins"};
  }
  for (uint64_t& entry : entries) entry &= kWritable;
  redirection_ = std::move(entries);
  return UpdateRoutes();
}

uint32_t Ioapic::ReadRegister() const {
  switch (select_) {
    case kIndexId:
    case kIndexArbitration:
      return static_cast<uint32_t>(id_) << 24;
    case kIndexVersion:
      return kVersion | static_cast<uint32_t>(redirection_.size() - 1) << 16;
    default:
      break;
  }
  const uint32_t word = select_ - kIndexRedirection;
  if (select_ < kIndexRedirection || word / 2 >= redirection_.size()) return 0;
  const uint64_t entry = redirection_[word / 2];
  return static_cast<uint32_t>(word % 2 == 0 ? entry : entry >> 32);
}

// True when the register was a redirection entry, and what it sends may have changed.
bool Ioapic::WriteRegister(uint32_t value) {
  if (select_ == kIndexId) {
    id_ = static_cast<uint8_t>(value >> 24);
    return false;
  }
  const uint32_t word = select_ - kIndexRedirection;
  if (select_ < kIndexRedirection || word / 2 >= redirection_.size()) return false;
  uint64_t& entry = redirection_[word / 2];
  const uint64_t before = entry;
  if (word % 2 == 0) {
    entry = (entry & 0xffff'ffff'0000'0000) | value;
  } else {
    entry = (entry & 0xffff'ffff) | static_cast<uint64_t>(value) << 32;
  }
  entry &= kWritable;
  return Sends(before) || Sends(entry);
}

Result<void> Ioapic::UpdateRoutes() {
  std::vector<MsiRoute> routes;
  for (uint32_t pin = 0; pin < redirection_.size(); ++pin) {
    const uint64_t entry = redirection_[pin];
    if (Sends(entry)) routes.push_back({pin, ToMsi(entry)});
  }
  if (routes == routes_) return {};
  CLEARVM_RETURN_IF_ERROR(set_routes_(routes));
  routes_ = std::move(routes);
  return {};
}

}  // namespace clearvm::kvm
