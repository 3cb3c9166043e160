// Makes ELF files for tests, right or wrong, as memfds.
#ifndef CLEARVM_TEST_NATIVE_BOOT_ELF_BUILDER_H_
#define CLEARVM_TEST_NATIVE_BOOT_ELF_BUILDER_H_

#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <vector>

#include "native/base/fd.h"

namespace clearvm::boot {

inline UniqueFd FileOf(const void* data, size_t size) {
  UniqueFd fd(::memfd_create("test", MFD_CLOEXEC));
  if (::write(fd.get(), data, size) != static_cast<ssize_t>(size)) fd.reset();
  return fd;
}

inline UniqueFd FileOf(const std::string& text) { return FileOf(text.data(), text.size()); }

// A kernel of two segments at 1 MiB and 2 MiB, whose parts can be changed before Build.
struct ElfBuilder {
  static constexpr uint64_t kText = 0x10'0000;
  static constexpr uint64_t kData = 0x20'0000;
  static constexpr uint64_t kTextOffset = 0x1000;
  static constexpr uint64_t kDataOffset = 0x2000;

  Elf64_Ehdr header = {};
  std::vector<Elf64_Phdr> programs;
  std::vector<uint8_t> body = std::vector<uint8_t>(0x3000);
  size_t cut = SIZE_MAX;  // the file's size, where that is less

  ElfBuilder() {
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = ET_EXEC;
    header.e_machine = EM_X86_64;
    header.e_version = EV_CURRENT;
    header.e_entry = kText + 0x10;
    header.e_phoff = sizeof(Elf64_Ehdr);
    header.e_ehsize = sizeof(Elf64_Ehdr);
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = 3;
    programs.push_back(
        {PT_LOAD, PF_R | PF_X, kTextOffset, 0xffff'ffff'8010'0000, kText, 0x1000, 0x1000, 0x1000});
    programs.push_back(
        {PT_LOAD, PF_R | PF_W, kDataOffset, 0xffff'ffff'8020'0000, kData, 0x800, 0x4000, 0x1000});
    programs.push_back({PT_NOTE, PF_R, 0, 0, 0, UINT64_MAX, UINT64_MAX, 0});
    for (size_t i = kTextOffset; i < body.size(); ++i) body[i] = static_cast<uint8_t>(i * 7 + 1);
  }

  UniqueFd Build() const {
    std::vector<uint8_t> bytes = body;
    std::memcpy(bytes.data(), &header, sizeof(header));
    std::memcpy(bytes.data() + sizeof(header), programs.data(),
                programs.size() * sizeof(Elf64_Phdr));
    return FileOf(bytes.data(), std::min(cut, bytes.size()));
  }
};

}  // namespace clearvm::boot

#endif  // CLEARVM_TEST_NATIVE_BOOT_ELF_BUILDER_H_
