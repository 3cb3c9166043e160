#include "native/boot/boot.h"

#include <asm/bootparam.h>

#include <algorithm>
#include <cstring>

#include "native/boot/elf.h"
#include "native/boot/mptable.h"
#include "native/boot/read.h"
#include "native/kvm/ioapic.h"
#include "native/kvm/long_mode.h"

namespace clearvm::boot {
namespace {

// Guest-physical places below 640 KiB, behind the tables of long_mode.h.
constexpr uint64_t kBootParams = 0x5000;
constexpr uint64_t kSetupData = 0x6000;
constexpr uint64_t kCommandLine = 0x7000;
constexpr uint64_t kLowMemoryEnd = kMpTablePage;
constexpr uint64_t kHighMemoryStart = 0x10'0000;
static_assert(kBootParams >= kvm::kLongModeEnd && sizeof(boot_params) <= kSetupData - kBootParams);

constexpr size_t kMaxCommandLine = 2047;  // COMMAND_LINE_SIZE of x86 Linux, without its end
constexpr size_t kMaxSeed = 512;          // bytes
constexpr uint32_t kMaxCpus = 32;

// boot_params, Documentation/x86/zero-page.rst and boot.rst.
constexpr uint16_t kBootFlag = 0xaa55;
constexpr uint32_t kHeaderMagic = 0x5372'6448;  // "HdrS"
constexpr uint16_t kProtocolVersion = 0x020c;   // the first with the 64-bit entry point
constexpr uint8_t kLoaderUndefined = 0xff;
constexpr uint8_t kLoadedHigh = 1;
constexpr uint32_t kE820Ram = 1;
constexpr uint32_t kE820Reserved = 2;
constexpr uint32_t kSetupRngSeed = 9;

constexpr uint64_t kPage = 4096;
constexpr uint64_t kHugePage = 2ull << 20;
constexpr uint64_t kWorthHugePage = 256 << 10;  // bytes of the kernel's file in it
constexpr uint64_t kInitrdMax =
    1ull << 31;  // initrd_addr_max of a kernel's setup header, which an ELF lacks

uint64_t RoundUp(uint64_t value, uint64_t unit) { return (value + unit - 1) & ~(unit - 1); }

struct Initrd {
  uint64_t address = 0;
  uint64_t size = 0;
};

Error TooSmall(const kvm::GuestMemory& memory, uint64_t needed) {
  const uint64_t mebibyte = 1 << 20;
  return Error{"ERR_GUEST_MEMORY_TOO_SMALL", 0, "",
               "guest memory of " + std::to_string(memory.size()) +
                   " bytes cannot hold the kernel and its initramfs: give at least " +
                   std::to_string(RoundUp(needed, mebibyte) / mebibyte) + " MiB"};
}

Result<void> CheckOptions(const BootOptions& options) {
  if (options.cpus < 1 || options.cpus > kMaxCpus || options.irq_pins < 1 ||
      options.irq_pins > kvm::kIoapicMaxPins || options.seed.size() > kMaxSeed) {
    return Error{"ERR_BOOT_OPTIONS", 0, "",
                 "a VM has 1 to 32 CPUs, 1 to 64 interrupt pins and a seed of at most 512 bytes"};
  }
  if (options.command_line.size() > kMaxCommandLine) {
    return Error{"ERR_COMMAND_LINE", 0, "",
                 "the kernel's command line has " + std::to_string(options.command_line.size()) +
                     " bytes, more than " + std::to_string(kMaxCommandLine)};
  }
  if (options.command_line.find('\0') != std::string::npos) {
    return Error{"ERR_COMMAND_LINE", 0, "", "the kernel's command line contains a zero byte"};
  }
  return {};
}

// Decides where the initramfs goes: right behind the first MiB, in the huge page that the tables of
// the boot have touched already; if there is no room before the kernel, as high as it may.
Result<Initrd> PlaceInitrd(const kvm::GuestMemory& memory, int fd, const ElfImage& kernel) {
  const uint64_t top = std::min(memory.regions().front().size, kInitrdMax);
  if (fd < 0) {
    if (top < kernel.end) return TooSmall(memory, kernel.end);
    return Initrd{};
  }
  CLEARVM_ASSIGN(const uint64_t size, FileSize(fd, "ERR_INITRD", "the initramfs"));
  if (size == 0 || size > kInitrdMax) {
    return Error{"ERR_INITRD", 0, "",
                 "the initramfs has " + std::to_string(size) + " bytes, not 1 byte to 2 GiB"};
  }
  const uint64_t taken = RoundUp(size, kPage);
  const uint64_t first_free = RoundUp(kernel.end, kPage);
  if (taken <= kernel.start - kHighMemoryStart) {
    if (top < first_free) return TooSmall(memory, first_free);
    return Initrd{kHighMemoryStart, size};
  }
  if (top < first_free || top - first_free < taken) return TooSmall(memory, first_free + taken);
  return Initrd{(top - taken) & ~(kPage - 1), size};
}

// 4 KiB pages cost the boot most of its time, but a huge page of which the kernel has next to
// nothing is 2 MiB to clear for it.
void AdvisePages(const kvm::GuestMemory& memory, const ElfImage& image) {
  const uint64_t first = image.start & ~(kHugePage - 1);
  for (uint64_t page = first; page < image.end; page += kHugePage) {
    uint64_t loaded = 0;
    for (const ElfSegment& segment : image.segments) {
      const uint64_t from = std::max(page, segment.guest_address);
      const uint64_t to = std::min(page + kHugePage, segment.guest_address + segment.file_size);
      if (from < to) loaded += to - from;
    }
    memory.AdviseHugePages(page, kHugePage, loaded >= kWorthHugePage);
  }
}

Result<void> WriteSeed(const kvm::GuestMemory& memory, std::span<const uint8_t> seed) {
  setup_data header = {};
  header.type = kSetupRngSeed;
  header.len = static_cast<uint32_t>(seed.size());
  CLEARVM_ASSIGN(std::span<uint8_t> target, memory.Slice(kSetupData, sizeof(header) + seed.size()));
  std::memcpy(target.data(), &header, sizeof(header));
  std::memcpy(target.data() + sizeof(header), seed.data(), seed.size());
  return {};
}

void AddE820(boot_params& params, uint64_t start, uint64_t end, uint32_t type) {
  if (start >= end) return;
  boot_e820_entry& entry = params.e820_table[params.e820_entries++];
  entry.addr = start;
  entry.size = end - start;
  entry.type = type;
}

Result<void> WriteBootParams(const kvm::GuestMemory& memory, const BootOptions& options,
                             const Initrd& initrd) {
  boot_params params = {};
  params.hdr.boot_flag = kBootFlag;
  params.hdr.header = kHeaderMagic;
  params.hdr.version = kProtocolVersion;
  params.hdr.type_of_loader = kLoaderUndefined;
  params.hdr.loadflags = kLoadedHigh;
  params.hdr.cmd_line_ptr = kCommandLine;
  params.hdr.cmdline_size = kMaxCommandLine;
  params.hdr.ramdisk_image = static_cast<uint32_t>(initrd.address);
  params.hdr.ramdisk_size = static_cast<uint32_t>(initrd.size);
  params.hdr.setup_data = options.seed.empty() ? 0 : kSetupData;
  // The MP table's page counts as the BIOS's, and what follows it up to 1 MiB as its video memory
  // and ROM. The MMIO hole is simply not in the map.
  AddE820(params, 0, kLowMemoryEnd, kE820Ram);
  AddE820(params, kLowMemoryEnd, kHighMemoryStart, kE820Reserved);
  for (const kvm::MemoryRegion& region : memory.regions()) {
    AddE820(params, std::max(region.guest_address, kHighMemoryStart),
            region.guest_address + region.size, kE820Ram);
  }
  CLEARVM_ASSIGN(std::span<uint8_t> target, memory.Slice(kBootParams, sizeof(params)));
  std::memcpy(target.data(), &params, sizeof(params));
  return {};
}

}  // namespace

Result<BootEntry> Load(const kvm::GuestMemory& memory, const BootOptions& options) {
  CLEARVM_RETURN_IF_ERROR(CheckOptions(options));
  CLEARVM_ASSIGN(const ElfImage image, ParseElf(options.kernel_fd));
  CLEARVM_ASSIGN(const Initrd initrd, PlaceInitrd(memory, options.initrd_fd, image));

  AdvisePages(memory, image);
  CLEARVM_RETURN_IF_ERROR(LoadSegments(options.kernel_fd, image, memory));

  if (initrd.size != 0) {
    CLEARVM_ASSIGN(std::span<uint8_t> target, memory.Slice(initrd.address, initrd.size));
    CLEARVM_RETURN_IF_ERROR(
        ReadExactly(options.initrd_fd, 0, target, "ERR_INITRD", "the initramfs"));
  }
  CLEARVM_ASSIGN(std::span<uint8_t> command_line,
                 memory.Slice(kCommandLine, options.command_line.size() + 1));
  std::memcpy(command_line.data(), options.command_line.c_str(), command_line.size());
  if (!options.seed.empty()) CLEARVM_RETURN_IF_ERROR(WriteSeed(memory, options.seed));
  CLEARVM_RETURN_IF_ERROR(WriteBootParams(memory, options, initrd));
  CLEARVM_RETURN_IF_ERROR(WriteMpTable(memory, options.cpus, options.irq_pins));
  CLEARVM_ASSIGN(const kvm::LongModeTables tables, kvm::WriteLongModeTables(memory));
  return BootEntry{image.entry,      kBootParams, tables.cr3, tables.gdt_address,
                   tables.gdt_limit, image.start, image.end};
}

}  // namespace clearvm::boot
