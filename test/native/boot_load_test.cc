#include <asm/bootparam.h>
#include <gtest/gtest.h>

#include <numeric>

#include "native/boot/boot.h"
#include "native/boot/mptable.h"
#include "native/kvm/ioapic.h"
#include "test/native/boot_elf_builder.h"

namespace clearvm::boot {
namespace {

constexpr uint64_t kMiB = 1 << 20;

kvm::GuestMemory Memory(uint64_t size) {
  return std::move(kvm::GuestMemory::Create(size, kvm::Backing::kMemfd)).value();
}

template <typename T>
T At(const kvm::GuestMemory& memory, uint64_t address) {
  T value;
  std::memcpy(&value, memory.Slice(address, sizeof(T)).value().data(), sizeof(T));
  return value;
}

class BootLoad : public testing::Test {
 protected:
  Result<BootEntry> Load(const kvm::GuestMemory& memory) {
    options_.kernel_fd = kernel_.get();
    options_.initrd_fd = initrd_.get();
    return boot::Load(memory, options_);
  }
  std::string ErrorCode(uint64_t memory_size = 4 * kMiB) {
    const kvm::GuestMemory memory = Memory(memory_size);
    Result<BootEntry> entry = Load(memory);
    if (entry.ok()) return "";
    message_ = entry.error().message;
    return entry.error().code;
  }

  BootOptions options_;
  UniqueFd kernel_ = ElfBuilder().Build();
  UniqueFd initrd_;
  std::string message_;
};

TEST_F(BootLoad, FillsTheZeroPage) {
  const std::string command_line = "console=hvc0 quiet";
  const std::vector<uint8_t> seed(32, 0xa5);
  const std::string initrd(5000, 'i');
  options_.command_line = command_line;
  options_.seed = seed;
  initrd_ = FileOf(initrd);
  const kvm::GuestMemory memory = Memory(8 * kMiB);
  Result<BootEntry> loaded = Load(memory);
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  const BootEntry entry = loaded.value();
  EXPECT_EQ(entry.rip, ElfBuilder::kText + 0x10);
  EXPECT_EQ(entry.kernel_start, ElfBuilder::kText);
  EXPECT_EQ(entry.kernel_end, ElfBuilder::kData + 0x4000);

  const auto params = At<boot_params>(memory, entry.rsi);
  EXPECT_EQ(params.hdr.boot_flag, 0xaa55);
  EXPECT_EQ(params.hdr.header, 0x53726448u);
  EXPECT_EQ(params.hdr.type_of_loader, 0xff);
  EXPECT_EQ(params.sentinel, 0);
  EXPECT_STREQ(reinterpret_cast<const char*>(memory.Translate(params.hdr.cmd_line_ptr, 64)),
               command_line.c_str());
  EXPECT_EQ(params.hdr.ramdisk_size, initrd.size());
  EXPECT_EQ(params.hdr.ramdisk_image, 8 * kMiB - 8192);
  EXPECT_EQ(std::memcmp(memory.Translate(params.hdr.ramdisk_image, initrd.size()), initrd.data(),
                        initrd.size()),
            0);
  const auto data = At<setup_data>(memory, params.hdr.setup_data);
  EXPECT_EQ(data.next, 0u);
  EXPECT_EQ(data.type, 9u);
  EXPECT_EQ(data.len, seed.size());
  EXPECT_EQ(std::memcmp(memory.Translate(params.hdr.setup_data + sizeof(data), seed.size()),
                        seed.data(), seed.size()),
            0);
}

TEST_F(BootLoad, MapsMemoryWithoutHolesFilled) {
  const kvm::GuestMemory memory = Memory(4096 * kMiB);
  const auto params = At<boot_params>(memory, Load(memory).value().rsi);
  ASSERT_EQ(params.e820_entries, 4);
  const boot_e820_entry expected[] = {
      {0, kMpTablePage, 1},
      {kMpTablePage, kMiB - kMpTablePage, 2},
      {kMiB, kvm::kMmioHoleStart - kMiB, 1},
      {kvm::kMmioHoleEnd, 4096 * kMiB - kvm::kMmioHoleStart, 1},
  };
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(std::memcmp(&params.e820_table[i], &expected[i], sizeof(expected[i])), 0) << i;
  }
  EXPECT_EQ(params.hdr.setup_data, 0u);
  EXPECT_EQ(params.hdr.ramdisk_size, 0u);
}

TEST_F(BootLoad, KeepsTheInitrdBelowTwoGiB) {
  initrd_ = FileOf("initrd");
  const kvm::GuestMemory memory = Memory(4096 * kMiB);
  const auto params = At<boot_params>(memory, Load(memory).value().rsi);
  EXPECT_EQ(params.hdr.ramdisk_image, 2048 * kMiB - 4096);
}

TEST_F(BootLoad, PutsTheInitrdBeforeTheKernelWhereItFits) {
  ElfBuilder builder;
  builder.header.e_entry += 1 * kMiB;
  for (Elf64_Phdr& program : builder.programs) program.p_paddr += 1 * kMiB;
  kernel_ = builder.Build();
  const kvm::GuestMemory memory = Memory(8 * kMiB);
  initrd_ = FileOf(std::string(1 * kMiB, 'i'));
  EXPECT_EQ(At<boot_params>(memory, Load(memory).value().rsi).hdr.ramdisk_image, 1 * kMiB);
  initrd_ = FileOf(std::string(1 * kMiB + 1, 'i'));
  EXPECT_EQ(At<boot_params>(memory, Load(memory).value().rsi).hdr.ramdisk_image, 7 * kMiB - 4096);
  initrd_ = FileOf("initrd");
  EXPECT_EQ(ErrorCode(3 * kMiB), "ERR_GUEST_MEMORY_TOO_SMALL");
}

TEST_F(BootLoad, MapsTheFirstGiBToItself) {
  const kvm::GuestMemory memory = Memory(4 * kMiB);
  const uint64_t cr3 = Load(memory).value().cr3;
  for (const uint64_t address : {uint64_t{0}, uint64_t{0x12'3456}, uint64_t{0x3fff'ffff}}) {
    const auto level4 = At<uint64_t>(memory, cr3);
    const auto level3 = At<uint64_t>(memory, level4 & ~0xfffull);
    const auto level2 = At<uint64_t>(memory, (level3 & ~0xfffull) + (address >> 21) * 8);
    EXPECT_EQ(level4 & 0xfff, 3u);
    EXPECT_EQ(level3 & 0xfff, 3u);
    EXPECT_EQ(level2, (address & ~0x1f'ffffull) | 0x83);
  }
}

TEST_F(BootLoad, ChecksItsOptions) {
  options_.command_line = std::string(2048, 'x');
  EXPECT_EQ(ErrorCode(), "ERR_COMMAND_LINE");
  options_.command_line = std::string(2047, 'x');
  EXPECT_EQ(ErrorCode(), "");
  options_.command_line = std::string("a\0b", 3);
  EXPECT_EQ(ErrorCode(), "ERR_COMMAND_LINE");
  options_.command_line.clear();
  for (const uint32_t cpus : {0u, 33u}) {
    options_.cpus = cpus;
    EXPECT_EQ(ErrorCode(), "ERR_BOOT_OPTIONS");
  }
  options_.cpus = 32;
  EXPECT_EQ(ErrorCode(), "");
  options_.irq_pins = 65;
  EXPECT_EQ(ErrorCode(), "ERR_BOOT_OPTIONS");
}

TEST_F(BootLoad, SaysHowMuchMemoryIsNeeded) {
  EXPECT_EQ(ErrorCode(1 * kMiB), "ERR_GUEST_MEMORY_TOO_SMALL");
  EXPECT_NE(message_.find("at least 3 MiB"), std::string::npos) << message_;
  EXPECT_EQ(ErrorCode(3 * kMiB), "");
  initrd_ = FileOf(std::string(1 * kMiB, 'i'));
  EXPECT_EQ(ErrorCode(3 * kMiB), "ERR_GUEST_MEMORY_TOO_SMALL");
  EXPECT_NE(message_.find("at least 4 MiB"), std::string::npos) << message_;
  EXPECT_EQ(ErrorCode(4 * kMiB), "");
  EXPECT_EQ(ErrorCode(4096), "ERR_GUEST_MEMORY_TOO_SMALL");
}

TEST_F(BootLoad, RefusesBadInitrds) {
  initrd_ = FileOf("");
  EXPECT_EQ(ErrorCode(), "ERR_INITRD");
  int fds[2];
  ASSERT_EQ(::pipe(fds), 0);
  initrd_.reset(fds[0]);
  ::close(fds[1]);
  EXPECT_EQ(ErrorCode(), "ERR_INITRD");
}

TEST_F(BootLoad, RefusesBadKernels) {
  kernel_ = FileOf(std::string(4096, 'x'));
  EXPECT_EQ(ErrorCode(), "ERR_KERNEL_IMAGE");
  kernel_.reset();
  EXPECT_EQ(ErrorCode(), "ERR_KERNEL_READ");
}

uint8_t Sum(const kvm::GuestMemory& memory, uint64_t address, size_t size) {
  const auto bytes = memory.Slice(address, size).value();
  return static_cast<uint8_t>(std::accumulate(bytes.begin(), bytes.end(), 0));
}

TEST(MpTable, DescribesEveryMachine) {
  const kvm::GuestMemory memory = Memory(1 * kMiB);
  for (const uint32_t cpus : {1u, 2u, 32u}) {
    for (const uint32_t pins : {1u, 24u, 64u}) {
      ASSERT_TRUE(WriteMpTable(memory, cpus, pins).ok());
      // The floating pointer, in the last KiB of base memory (MP 1.4, section 4).
      constexpr uint64_t kPointer = 639 * 1024;
      EXPECT_EQ(At<uint32_t>(memory, kPointer), 0x5f504d5fu);  // "_MP_"
      EXPECT_EQ(Sum(memory, kPointer, 16), 0);
      const auto table = At<uint32_t>(memory, kPointer + 4);
      EXPECT_EQ(At<uint32_t>(memory, table), 0x504d4350u);  // "PCMP"
      const auto length = At<uint16_t>(memory, table + 4);
      EXPECT_LE(table + length, kPointer);
      EXPECT_EQ(Sum(memory, table, length), 0);
      EXPECT_EQ(At<uint32_t>(memory, table + 36), 0xfee00000u);

      const auto count = At<uint16_t>(memory, table + 34);
      uint64_t at = table + 44;
      uint32_t seen[5] = {};
      for (int i = 0; i < count; ++i) {
        const auto type = At<uint8_t>(memory, at);
        ASSERT_LT(type, 5);
        if (type == 0) {
          EXPECT_EQ(At<uint8_t>(memory, at + 1), seen[0]);               // APIC id
          EXPECT_EQ(At<uint8_t>(memory, at + 3), seen[0] == 0 ? 3 : 1);  // enabled, boot processor
        } else if (type == 2) {
          EXPECT_EQ(At<uint8_t>(memory, at + 1), kvm::kIoapicId);
          EXPECT_EQ(At<uint32_t>(memory, at + 4), kvm::kIoapicAddress);
        } else if (type == 3) {
          EXPECT_EQ(At<uint8_t>(memory, at + 5), seen[3] + 1);  // source IRQ
          EXPECT_EQ(At<uint8_t>(memory, at + 6), kvm::kIoapicId);
          EXPECT_EQ(At<uint8_t>(memory, at + 7), seen[3] + 1);  // pin
        }
        ++seen[type];
        at += type == 0 ? 20 : 8;
      }
      EXPECT_EQ(at, table + length);
      EXPECT_EQ(seen[0], cpus);
      EXPECT_EQ(seen[1], 1u);
      EXPECT_EQ(seen[2], 1u);
      EXPECT_EQ(seen[3], pins - 1);
      EXPECT_EQ(seen[4], 2u);
    }
  }
}

}  // namespace
}  // namespace clearvm::boot
