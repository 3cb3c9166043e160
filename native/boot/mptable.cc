#include "native/boot/mptable.h"

#include <cstring>
#include <numeric>
#include <span>
#include <vector>

#include "native/kvm/ioapic.h"

namespace clearvm::boot {
namespace {

// Where in the page: the table first, the pointer at the start of base memory's last KiB (section
// 4).
constexpr uint64_t kTableAddress = kMpTablePage;
constexpr uint64_t kPointerAddress = 0x9fc00;

constexpr uint8_t kSpecRevision = 4;  // 1.4
constexpr uint32_t kLocalApicAddress = 0xfee0'0000;
constexpr uint8_t kLocalApicVersion = 0x14;
constexpr uint8_t kIoapicVersion = 0x11;
constexpr uint8_t kIsaBus = 0;

// Entry types, section 4.3.
enum EntryType : uint8_t {
  kProcessor = 0,
  kBus = 1,
  kIoapic = 2,
  kIoInterrupt = 3,
  kLocalInterrupt = 4,
};
enum InterruptType : uint8_t { kVectored = 0, kNmi = 1, kExtInt = 3 };

constexpr uint8_t kEnabled = 1;
constexpr uint8_t kBootProcessor = 2;
constexpr uint16_t kConforming = 0;
constexpr uint16_t kEdgeActiveHigh = 1 | 1 << 2;
constexpr uint8_t kAllLocalApics = 0xff;

struct [[gnu::packed]] FloatingPointer {
  char signature[4];
  uint32_t table_address;
  uint8_t length;  // in units of 16 bytes
  uint8_t revision;
  uint8_t checksum;
  uint8_t features[5];
};
static_assert(sizeof(FloatingPointer) == 16);

struct [[gnu::packed]] Header {
  char signature[4];
  uint16_t length;
  uint8_t revision;
  uint8_t checksum;
  char oem[8];
  char product[12];
  uint32_t oem_table;
  uint16_t oem_table_size;
  uint16_t entry_count;
  uint32_t local_apic_address;
  uint16_t extended_length;
  uint8_t extended_checksum;
  uint8_t reserved;
};
static_assert(sizeof(Header) == 44);

struct [[gnu::packed]] ProcessorEntry {
  EntryType type;
  uint8_t apic_id;
  uint8_t apic_version;
  uint8_t flags;
  uint32_t signature;
  uint32_t features;
  uint32_t reserved[2];
};
static_assert(sizeof(ProcessorEntry) == 20);

struct [[gnu::packed]] BusEntry {
  EntryType type;
  uint8_t id;
  char name[6];
};
static_assert(sizeof(BusEntry) == 8);

struct [[gnu::packed]] IoapicEntry {
  EntryType type;
  uint8_t id;
  uint8_t version;
  uint8_t flags;
  uint32_t address;
};
static_assert(sizeof(IoapicEntry) == 8);

struct [[gnu::packed]] InterruptEntry {
  EntryType type;
  InterruptType interrupt;
  uint16_t flags;
  uint8_t source_bus;
  uint8_t source_irq;
  uint8_t target_apic;
  uint8_t target_pin;
};
static_assert(sizeof(InterruptEntry) == 8);

// What makes the bytes add up to 0 once it replaces a checksum of 0.
uint8_t Checksum(std::span<const uint8_t> bytes) {
  return static_cast<uint8_t>(-std::accumulate(bytes.begin(), bytes.end(), 0));
}

// Collects the configuration table.
class Table {
 public:
  Table() : bytes_(sizeof(Header)) {}

  template <typename T>
  void Add(const T& entry) {
    const auto* from = reinterpret_cast<const uint8_t*>(&entry);
    bytes_.insert(bytes_.end(), from, from + sizeof(entry));
    ++count_;
  }

  std::vector<uint8_t> Finish() && {
    Header header = {};
    std::memcpy(header.signature, "PCMP", 4);
    header.length = static_cast<uint16_t>(bytes_.size());
    header.revision = kSpecRevision;
    std::memcpy(header.oem, "CLEARVM ", 8);
    std::memcpy(header.product, "MICROVM     ", 12);
    header.entry_count = count_;
    header.local_apic_address = kLocalApicAddress;
    std::memcpy(bytes_.data(), &header, sizeof(header));
    bytes_[offsetof(Header, checksum)] = Checksum(bytes_);
    return std::move(bytes_);
  }

 private:
  std::vector<uint8_t> bytes_;
  uint16_t count_ = 0;
};

}  // namespace

Result<void> WriteMpTable(const kvm::GuestMemory& memory, uint32_t cpus, uint32_t irq_pins) {
  Table table;
  for (uint32_t cpu = 0; cpu < cpus; ++cpu) {
    ProcessorEntry entry = {};
    entry.type = kProcessor;
    entry.apic_id = static_cast<uint8_t>(cpu);
    entry.apic_version = kLocalApicVersion;
    entry.flags = kEnabled | (cpu == 0 ? kBootProcessor : 0);
    table.Add(entry);
  }
  table.Add(BusEntry{kBus, kIsaBus, {'I', 'S', 'A', ' ', ' ', ' '}});
  table.Add(IoapicEntry{kIoapic, kvm::kIoapicId, kIoapicVersion, kEnabled,
                        static_cast<uint32_t>(kvm::kIoapicAddress)});
  // Pin 0 would be the timer's: there is none, and each pin that is listed costs the kernel exits.
  for (uint32_t pin = 1; pin < irq_pins; ++pin) {
    const auto line = static_cast<uint8_t>(pin);
    table.Add(InterruptEntry{kIoInterrupt, kVectored, kEdgeActiveHigh, kIsaBus, line,
                             kvm::kIoapicId, line});
  }
  table.Add(InterruptEntry{kLocalInterrupt, kExtInt, kConforming, kIsaBus, 0, 0, 0});
  table.Add(InterruptEntry{kLocalInterrupt, kNmi, kConforming, kIsaBus, 0, kAllLocalApics, 1});
  const std::vector<uint8_t> bytes = std::move(table).Finish();

  FloatingPointer pointer = {};
  std::memcpy(pointer.signature, "_MP_", 4);
  pointer.table_address = kTableAddress;
  pointer.length = 1;
  pointer.revision = kSpecRevision;
  pointer.checksum = Checksum({reinterpret_cast<const uint8_t*>(&pointer), sizeof(pointer)});

  CLEARVM_ASSIGN(std::span<uint8_t> table_target, memory.Slice(kTableAddress, bytes.size()));
  std::memcpy(table_target.data(), bytes.data(), bytes.size());
  CLEARVM_ASSIGN(std::span<uint8_t> target, memory.Slice(kPointerAddress, sizeof(pointer)));
  std::memcpy(target.data(), &pointer, sizeof(pointer));
  return {};
}

}  // namespace clearvm::boot
