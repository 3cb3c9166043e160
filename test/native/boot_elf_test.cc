#include <fcntl.h>
#include <gtest/gtest.h>

#include <functional>

#include "native/boot/elf.h"
#include "test/native/boot_elf_builder.h"

namespace clearvm::boot {
namespace {

TEST(Elf, LoadsEverySegment) {
  const ElfBuilder builder;
  const UniqueFd file = builder.Build();
  Result<ElfImage> image = ParseElf(file.get());
  ASSERT_TRUE(image.ok()) << image.error().message;
  EXPECT_EQ(image.value().entry, ElfBuilder::kText + 0x10);
  EXPECT_EQ(image.value().start, ElfBuilder::kText);
  EXPECT_EQ(image.value().end, ElfBuilder::kData + 0x4000);
  ASSERT_EQ(image.value().segments.size(), 2u);

  const kvm::GuestMemory memory =
      std::move(kvm::GuestMemory::Create(4 << 20, kvm::Backing::kMemfd)).value();
  ASSERT_TRUE(LoadSegments(file.get(), image.value(), memory).ok());
  EXPECT_EQ(std::memcmp(memory.Translate(ElfBuilder::kText, 0x1000),
                        builder.body.data() + ElfBuilder::kTextOffset, 0x1000),
            0);
  EXPECT_EQ(std::memcmp(memory.Translate(ElfBuilder::kData, 0x800),
                        builder.body.data() + ElfBuilder::kDataOffset, 0x800),
            0);
  EXPECT_EQ(*memory.Translate(ElfBuilder::kData + 0x800, 1), 0);
}

TEST(Elf, SaysWhenMemoryEndsBeforeTheKernel) {
  const UniqueFd file = ElfBuilder().Build();
  const ElfImage image = std::move(ParseElf(file.get())).value();
  const kvm::GuestMemory memory =
      std::move(kvm::GuestMemory::Create((2 << 20) + 4096, kvm::Backing::kMemfd)).value();
  Result<void> loaded = LoadSegments(file.get(), image, memory);
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.error().code, "ERR_GUEST_MEMORY_TOO_SMALL");
}

struct Malformed {
  const char* name;
  std::function<void(ElfBuilder&)> spoil;
  const char* says;  // part of the message
};

class ElfMalformed : public testing::TestWithParam<Malformed> {};

TEST_P(ElfMalformed, IsRefused) {
  ElfBuilder builder;
  GetParam().spoil(builder);
  const UniqueFd file = builder.Build();
  Result<ElfImage> image = ParseElf(file.get());
  ASSERT_FALSE(image.ok());
  EXPECT_EQ(image.error().code, "ERR_KERNEL_IMAGE");
  EXPECT_NE(image.error().message.find(GetParam().says), std::string::npos)
      << image.error().message;
}

constexpr uint64_t kWrap = UINT64_MAX - 0xfff;

INSTANTIATE_TEST_SUITE_P(
    Elf, ElfMalformed,
    testing::Values(
        Malformed{"Empty", [](ElfBuilder& b) { b.cut = 0; }, "too short"},
        Malformed{"HeaderCut", [](ElfBuilder& b) { b.cut = 63; }, "too short"},
        Malformed{"Magic", [](ElfBuilder& b) { b.header.e_ident[0] = 'M'; }, "not an ELF"},
        Malformed{"Class", [](ElfBuilder& b) { b.header.e_ident[EI_CLASS] = ELFCLASS32; },
                  "not 64-bit"},
        Malformed{"Endian", [](ElfBuilder& b) { b.header.e_ident[EI_DATA] = ELFDATA2MSB; },
                  "little-endian"},
        Malformed{"IdentVersion", [](ElfBuilder& b) { b.header.e_ident[EI_VERSION] = 2; },
                  "version"},
        Malformed{"Version", [](ElfBuilder& b) { b.header.e_version = 0; }, "version"},
        Malformed{"Machine", [](ElfBuilder& b) { b.header.e_machine = EM_AARCH64; }, "machine 183"},
        Malformed{"Type", [](ElfBuilder& b) { b.header.e_type = ET_DYN; }, "not executable"},
        Malformed{"HeaderSize", [](ElfBuilder& b) { b.header.e_ehsize = 52; }, "unknown size"},
        Malformed{"ProgramSize", [](ElfBuilder& b) { b.header.e_phentsize = 55; }, "unknown size"},
        Malformed{"NoPrograms", [](ElfBuilder& b) { b.header.e_phnum = 0; }, "0 program headers"},
        Malformed{"ManyPrograms", [](ElfBuilder& b) { b.header.e_phnum = 0xffff; },
                  "65535 program headers"},
        Malformed{"ProgramsBeyond", [](ElfBuilder& b) { b.header.e_phoff = 0x2ff0; },
                  "beyond the end"},
        Malformed{"ProgramsWrap", [](ElfBuilder& b) { b.header.e_phoff = UINT64_MAX - 8; },
                  "beyond the end"},
        Malformed{"ProgramsCut", [](ElfBuilder& b) { b.cut = 100; }, "beyond the end"},
        Malformed{"NothingToLoad",
                  [](ElfBuilder& b) { b.programs[0].p_type = b.programs[1].p_type = PT_NOTE; },
                  "nothing to load"},
        Malformed{"NoMemory",
                  [](ElfBuilder& b) {
                    for (auto& p : b.programs) p.p_filesz = p.p_memsz = 0;
                  },
                  "nothing to load"},
        Malformed{"FileSizeOverMemory", [](ElfBuilder& b) { b.programs[0].p_memsz = 0xfff; },
                  "larger in the file"},
        Malformed{"DataCut", [](ElfBuilder& b) { b.cut = 0x27ff; }, "cut short"},
        Malformed{"OffsetBeyond", [](ElfBuilder& b) { b.programs[1].p_offset = 0x3001; },
                  "cut short"},
        Malformed{"OffsetWraps", [](ElfBuilder& b) { b.programs[1].p_offset = kWrap; },
                  "cut short"},
        Malformed{"FileSizeWraps",
                  [](ElfBuilder& b) { b.programs[1].p_filesz = b.programs[1].p_memsz = kWrap; },
                  "cut short"},
        Malformed{"BelowOneMiB", [](ElfBuilder& b) { b.programs[1].p_paddr = 0x8000; },
                  "between 1 MiB and 1 GiB"},
        Malformed{"AboveOneGiB", [](ElfBuilder& b) { b.programs[1].p_paddr = 1 << 30; },
                  "between 1 MiB and 1 GiB"},
        Malformed{"AcrossOneGiB", [](ElfBuilder& b) { b.programs[1].p_paddr = (1 << 30) - 0x1000; },
                  "between 1 MiB and 1 GiB"},
        Malformed{"AddressWraps", [](ElfBuilder& b) { b.programs[1].p_paddr = kWrap; },
                  "between 1 MiB and 1 GiB"},
        Malformed{"MemorySizeWraps", [](ElfBuilder& b) { b.programs[1].p_memsz = UINT64_MAX; },
                  "between 1 MiB and 1 GiB"},
        Malformed{"HugeMemorySize", [](ElfBuilder& b) { b.programs[1].p_memsz = 1ull << 40; },
                  "between 1 MiB and 1 GiB"},
        Malformed{"Overlap",
                  [](ElfBuilder& b) { b.programs[1].p_paddr = ElfBuilder::kText + 0xfff; },
                  "overlap"},
        Malformed{"OverlapByBss", [](ElfBuilder& b) { b.programs[0].p_memsz = 0x10'0001; },
                  "overlap"},
        Malformed{"SameTwice", [](ElfBuilder& b) { b.programs[1] = b.programs[0]; }, "overlap"},
        Malformed{"EntryOutside", [](ElfBuilder& b) { b.header.e_entry = 0x18'0000; },
                  "entry point 0x180000"},
        Malformed{"EntryVirtual", [](ElfBuilder& b) { b.header.e_entry = 0xffff'ffff'8010'0010; },
                  "entry point"},
        Malformed{"EntryAtEnd",
                  [](ElfBuilder& b) { b.header.e_entry = ElfBuilder::kText + 0x1000; },
                  "entry point"},
        Malformed{"EntryInData", [](ElfBuilder& b) { b.header.e_entry = ElfBuilder::kData; },
                  "entry point"},
        Malformed{"EntryInBss",
                  [](ElfBuilder& b) {
                    b.programs[1].p_flags |= PF_X;
                    b.header.e_entry = ElfBuilder::kData + 0x800;
                  },
                  "entry point"}),
    [](const testing::TestParamInfo<Malformed>& info) { return info.param.name; });

TEST(Elf, RefusesTextAndBzImages) {
  for (const std::string& start : {std::string("#!/bin/sh\n"), std::string("MZ\352\7\0\300\7")}) {
    Result<ElfImage> image = ParseElf(FileOf(start + std::string(4096, ' ')).get());
    ASSERT_FALSE(image.ok());
    EXPECT_EQ(image.error().code, "ERR_KERNEL_IMAGE");
  }
}

TEST(Elf, RefusesWhatIsNoFile) {
  EXPECT_EQ(ParseElf(-1).error().code, "ERR_KERNEL_READ");
  const UniqueFd directory(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  EXPECT_EQ(ParseElf(directory.get()).error().code, "ERR_KERNEL_READ");
}

}  // namespace
}  // namespace clearvm::boot
