#include "native/boot/elf.h"

#include <elf.h>

#include <algorithm>
#include <array>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <string>

#include "native/boot/read.h"

namespace clearvm::boot {
namespace {

constexpr char kReadError[] = "ERR_KERNEL_READ";
constexpr char kWhat[] = "the kernel image";
constexpr size_t kMaxProgramHeaders = 64;  // a vmlinux has about 5

Error ImageError(const std::string& cause) {
  return Error{"ERR_KERNEL_IMAGE", 0, "",
               "the kernel image is not one that ClearVM can boot: " + cause +
                   " (it must be an uncompressed x86-64 vmlinux)"};
}

std::string Hex(uint64_t value) {
  char buffer[20];
  std::snprintf(buffer, sizeof(buffer), "0x%" PRIx64, value);
  return buffer;
}

Result<void> CheckHeader(const Elf64_Ehdr& header) {
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return ImageError("it is not an ELF file");
  if (header.e_ident[EI_CLASS] != ELFCLASS64) return ImageError("it is not 64-bit");
  if (header.e_ident[EI_DATA] != ELFDATA2LSB) return ImageError("it is not little-endian");
  if (header.e_ident[EI_VERSION] != EV_CURRENT || header.e_version != EV_CURRENT) {
    return ImageError("its ELF version is unknown");
  }
  if (header.e_machine != EM_X86_64) {
    return ImageError("it is for machine " + std::to_string(header.e_machine) + ", not x86-64");
  }
  if (header.e_type != ET_EXEC) {
    return ImageError("its type is " + std::to_string(header.e_type) + ", not executable");
  }
  if (header.e_ehsize != sizeof(Elf64_Ehdr) || header.e_phentsize != sizeof(Elf64_Phdr)) {
    return ImageError("its headers have an unknown size");
  }
  if (header.e_phnum == 0 || header.e_phnum > kMaxProgramHeaders) {
    return ImageError("it has " + std::to_string(header.e_phnum) + " program headers, not 1 to " +
                      std::to_string(kMaxProgramHeaders));
  }
  return {};
}

Result<ElfSegment> CheckSegment(const Elf64_Phdr& header, uint64_t file_size) {
  const std::string name = "its segment at " + Hex(header.p_paddr);
  if (header.p_filesz > header.p_memsz)
    return ImageError(name + " is larger in the file than in memory");
  if (header.p_offset > file_size || header.p_filesz > file_size - header.p_offset) {
    return ImageError(name + " reaches beyond the end of the file: it is cut short");
  }
  if (header.p_paddr < kKernelMin || header.p_paddr >= kKernelMax ||
      header.p_memsz > kKernelMax - header.p_paddr) {
    return ImageError(name + " of " + std::to_string(header.p_memsz) +
                      " bytes is not between 1 MiB and 1 GiB");
  }
  return ElfSegment{header.p_offset, header.p_filesz, header.p_paddr, header.p_memsz};
}

}  // namespace

Result<ElfImage> ParseElf(int fd) {
  CLEARVM_ASSIGN(const uint64_t file_size, FileSize(fd, kReadError, kWhat));
  Elf64_Ehdr header = {};
  if (file_size < sizeof(header)) return ImageError("it is too short");
  CLEARVM_RETURN_IF_ERROR(
      ReadExactly(fd, 0, {reinterpret_cast<uint8_t*>(&header), sizeof(header)}, kReadError, kWhat));
  CLEARVM_RETURN_IF_ERROR(CheckHeader(header));

  std::array<Elf64_Phdr, kMaxProgramHeaders> table = {};
  const uint64_t table_size = header.e_phnum * sizeof(Elf64_Phdr);
  if (header.e_phoff > file_size || table_size > file_size - header.e_phoff) {
    return ImageError("its program headers lie beyond the end of the file");
  }
  CLEARVM_RETURN_IF_ERROR(ReadExactly(fd, header.e_phoff,
                                      {reinterpret_cast<uint8_t*>(table.data()), table_size},
                                      kReadError, kWhat));

  ElfImage image = {header.e_entry, kKernelMax, 0, {}};
  bool entry_found = false;
  for (const Elf64_Phdr& program : std::span(table).first(header.e_phnum)) {
    if (program.p_type != PT_LOAD || program.p_memsz == 0) continue;
    CLEARVM_ASSIGN(const ElfSegment segment, CheckSegment(program, file_size));
    image.start = std::min(image.start, segment.guest_address);
    image.end = std::max(image.end, segment.guest_address + segment.memory_size);
    if (header.e_entry >= segment.guest_address &&
        header.e_entry - segment.guest_address < segment.file_size &&
        (program.p_flags & PF_X) != 0) {
      entry_found = true;
    }
    image.segments.push_back(segment);
  }
  if (image.segments.empty()) return ImageError("it has nothing to load");
  if (!entry_found) {
    return ImageError("its entry point " + Hex(header.e_entry) +
                      " is not in an executable segment");
  }
  std::ranges::sort(image.segments, {}, &ElfSegment::guest_address);
  for (size_t i = 1; i < image.segments.size(); ++i) {
    const ElfSegment& before = image.segments[i - 1];
    if (before.guest_address + before.memory_size > image.segments[i].guest_address) {
      return ImageError("its segments at " + Hex(before.guest_address) + " and " +
                        Hex(image.segments[i].guest_address) + " overlap");
    }
  }
  return image;
}

Result<void> LoadSegments(int fd, const ElfImage& image, const kvm::GuestMemory& memory) {
  for (const ElfSegment& segment : image.segments) {
    uint8_t* target = memory.Translate(segment.guest_address, segment.memory_size);
    if (target == nullptr) {
      return Error{"ERR_GUEST_MEMORY_TOO_SMALL", 0, "",
                   "the kernel does not fit into guest memory: it reaches up to " +
                       std::to_string(image.end) + " bytes"};
    }
    CLEARVM_RETURN_IF_ERROR(
        ReadExactly(fd, segment.file_offset, {target, segment.file_size}, kReadError, kWhat));
  }
  return {};
}

}  // namespace clearvm::boot
