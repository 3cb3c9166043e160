#include "native/vmm/template.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "native/base/bytes.h"
#include "native/base/crc32c.h"

namespace clearvm::vmm {
namespace {

constexpr uint64_t kPage = 4096;
// What is read at first: all there is of a template with few vCPUs.
constexpr size_t kFirstRead = 16 * 1024;
constexpr size_t kMaxExtents = 4096;
static_assert(kMaxExtents * sizeof(kvm::MemoryExtent) < kTemplateFile.most_head / 2);
// Zero pages between others that are kept all the same: an extent costs each fork an mmap(2) and a
// VMA, a page in the file costs nobody anything but disk space.
constexpr uint64_t kMaxGap = 512 * kPage;

struct Header {
  std::array<char, 8> magic;
  uint32_t version;
  uint32_t head_size;      // bytes of header, extents and state
  uint32_t head_checksum;  // CRC-32C of those, with this field 0
  uint32_t memory_checksum;
  uint64_t memory_offset;
  uint64_t file_size;
  TemplateOrigin origin;
};
static_assert(std::has_unique_object_representations_v<TemplateOrigin> && sizeof(Header) == 304);

std::string CodeOf(const FileKind& kind, const char* cause) {
  return std::string(kind.code) + cause;
}
Error FileError(const FileKind& kind, const char* cause, const std::string& message) {
  return Error{CodeOf(kind, cause), 0, "", "the " + std::string(kind.name) + " " + message};
}
Error Damaged(const FileKind& kind, const std::string& message) {
  return FileError(kind, "_DAMAGED", message);
}
Error Foreign(const FileKind& kind, const std::string& message) {
  return FileError(kind, "_FOREIGN", message);
}
Error SystemErrorOf(const FileKind& kind, const char* cause, const char* syscall,
                    const char* what) {
  return SystemError(CodeOf(kind, cause), syscall, std::string(what) + " the " + kind.name);
}

uint64_t RoundUp(uint64_t value) { return (value + kPage - 1) & ~(kPage - 1); }

// Reads up to `size` bytes; fewer at the end of the file.
Result<void> ReadAt(int fd, uint64_t offset, size_t size, const FileKind& kind,
                    std::vector<uint8_t>* bytes) {
  bytes->resize(offset + size);
  size_t have = offset;
  while (have < bytes->size()) {
    const ssize_t got =
        ::pread(fd, bytes->data() + have, bytes->size() - have, static_cast<off_t>(have));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return SystemErrorOf(kind, "_DAMAGED", "pread", "cannot read");
    if (got == 0) break;
    have += static_cast<size_t>(got);
  }
  bytes->resize(have);
  return {};
}

Result<void> CheckOrigin(const TemplateOrigin& is, const TemplateOrigin& expected,
                         const FileKind& kind) {
  const bool memory_fits =
      kind.larger_memory_fits ? is.memory >= expected.memory : is.memory == expected.memory;
  const char* what = is.host != expected.host         ? "another host kernel"
                     : is.vmm != expected.vmm         ? "another VMM"
                     : is.kernel != expected.kernel   ? "another guest kernel"
                     : is.initrd != expected.initrd   ? "another initramfs"
                     : !memory_fits                   ? "another size of memory"
                     : is.cpus != expected.cpus       ? "another number of vCPUs"
                     : is.devices != expected.devices ? "another number of devices"
                                                      : nullptr;
  const std::string names =
      is.host == expected.host
          ? ""
          : ": " + std::string(is.host.data(), ::strnlen(is.host.data(), is.host.size())) +
                ", and this one is " + std::string(expected.host.data());
  if (what != nullptr) return Foreign(kind, std::string("was made for ") + what + names);
  return {};
}

Result<void> WriteAll(int fd, std::span<const uint8_t> bytes, uint64_t offset,
                      const FileKind& kind) {
  while (!bytes.empty()) {
    const ssize_t wrote = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return SystemErrorOf(kind, "_WRITE", "pwrite", "cannot write");
    bytes = bytes.subspan(static_cast<size_t>(wrote));
    offset += static_cast<uint64_t>(wrote);
  }
  return {};
}

bool IsZero(const uint8_t* page) {
  return page[0] == 0 && std::memcmp(page, page + 1, kPage - 1) == 0;
}

// The runs of pages of a region that are not zero. Where memory is a file, its holes are skipped.
void FindExtents(const kvm::MemoryRegion& region, int memfd,
                 std::vector<kvm::MemoryExtent>* extents) {
  const size_t first = extents->size();
  for (uint64_t at = 0; at < region.size; at += kPage) {
    if (memfd >= 0) {
      const off_t data = ::lseek(memfd, static_cast<off_t>(region.file_offset + at), SEEK_DATA);
      if (data < 0) break;
      at = std::max(at, static_cast<uint64_t>(data) - region.file_offset);
      if (at >= region.size) break;
    }
    if (IsZero(region.host_address + at)) continue;
    const uint64_t address = region.guest_address + at;
    if (extents->size() > first) {
      kvm::MemoryExtent& last = extents->back();
      if (address - (last.guest_address + last.size) <= kMaxGap) {
        last.size = address + kPage - last.guest_address;
        continue;
      }
    }
    extents->push_back({address, kPage, 0});
  }
}

// Makes one of those that lie closer together than that, in one region: what lies between them is
// kept, too.
void Join(uint64_t gap, std::vector<kvm::MemoryExtent>* extents) {
  std::vector<kvm::MemoryExtent> joined;
  for (const kvm::MemoryExtent& extent : *extents) {
    if (!joined.empty()) {
      kvm::MemoryExtent& last = joined.back();
      const uint64_t end = last.guest_address + last.size;
      const bool one_region = (extent.guest_address < kvm::kMmioHoleStart) ==
                              (last.guest_address < kvm::kMmioHoleStart);
      if (one_region && extent.guest_address - end <= gap) {
        last.size = extent.guest_address + extent.size - last.guest_address;
        continue;
      }
    }
    joined.push_back(extent);
  }
  *extents = std::move(joined);
}

}  // namespace

std::string FileIdentity::Text() const {
  std::string text;
  for (uint64_t part : {device, inode, size, modified, changed}) {
    text += (text.empty() ? "" : ":") + std::to_string(part);
  }
  return text;
}

Result<FileIdentity> IdentifyFile(int fd) {
  struct stat status;
  if (fd < 0) return FileIdentity{};
  if (::fstat(fd, &status) != 0) {
    return SystemError("ERR_TEMPLATE", "fstat", "cannot tell which file a template depends on");
  }
  const auto nanoseconds = [](const timespec& time) {
    return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
  };
  return FileIdentity{status.st_dev, status.st_ino, static_cast<uint64_t>(status.st_size),
                      nanoseconds(status.st_mtim), nanoseconds(status.st_ctim)};
}

TemplateOrigin DescribeHost() {
  TemplateOrigin origin;
  struct utsname name;
  ::uname(&name);  // cannot fail
  std::snprintf(origin.host.data(), origin.host.size(), "%.60s %.60s", name.release, name.version);
  return origin;
}

Result<TemplateOrigin> DescribeOrigin(int kernel, int initrd) {
  TemplateOrigin origin = DescribeHost();
  const UniqueFd self(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  CLEARVM_ASSIGN(origin.vmm, IdentifyFile(self.get()));
  CLEARVM_ASSIGN(origin.kernel, IdentifyFile(kernel));
  CLEARVM_ASSIGN(origin.initrd, IdentifyFile(initrd));
  return origin;
}

Result<Template> OpenTemplate(const std::string& path, const TemplateOrigin& expected,
                              const FileKind& kind) {
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!file.valid()) {
    return SystemError(CodeOf(kind, errno == ENOENT ? "_MISSING" : "_DAMAGED"), "open",
                       "cannot open the " + std::string(kind.name) + " " + path);
  }
  return ReadTemplate(std::move(file), path, expected, kind);
}

Result<Template> ReadTemplate(UniqueFd file, const std::string& path,
                              const TemplateOrigin& expected, const FileKind& kind) {
  Template opened;
  opened.file = std::move(file);
  CLEARVM_ASSIGN(opened.identity, IdentifyFile(opened.file.get()));
  opened.file_size = opened.identity.size;
  std::vector<uint8_t> head;
  CLEARVM_RETURN_IF_ERROR(ReadAt(opened.file.get(), 0, kFirstRead, kind, &head));

  ByteReader start(head);
  auto header = start.Take<Header>();
  if (!start.ok() || header.magic != kind.magic) {
    return Foreign(kind, "file " + path + " holds none");
  }
  if (header.version != kind.version) {
    return Foreign(kind, "is of version " + std::to_string(header.version) +
                             ", this VMM's are of " + std::to_string(kind.version));
  }
  if (header.file_size != opened.identity.size) {
    return Damaged(kind, "has " + std::to_string(opened.identity.size) + " bytes, not " +
                             std::to_string(header.file_size));
  }
  if (header.head_size < sizeof header || header.head_size > kind.most_head ||
      header.memory_offset != RoundUp(header.head_size) ||
      header.memory_offset > header.file_size) {
    return Damaged(kind, "has a header that makes no sense");
  }
  if (head.size() < header.head_size) {
    CLEARVM_RETURN_IF_ERROR(
        ReadAt(opened.file.get(), head.size(), header.head_size - head.size(), kind, &head));
  }
  if (head.size() < header.head_size) return Damaged(kind, "is cut short");
  head.resize(header.head_size);
  Header unsummed = header;
  unsummed.head_checksum = 0;
  std::memcpy(head.data(), &unsummed, sizeof unsummed);
  if (Crc32c(head) != header.head_checksum) return Damaged(kind, "does not match its checksum");
  CLEARVM_RETURN_IF_ERROR(CheckOrigin(header.origin, expected, kind));

  ByteReader rest(std::span<const uint8_t>(head).subspan(sizeof header));
  opened.extents = rest.TakeList<kvm::MemoryExtent>(kMaxExtents);
  opened.state = rest.TakeList<uint8_t>(kind.most_head);
  if (!rest.Finished()) return Damaged(kind, "has a header that makes no sense");
  opened.memory = header.origin.memory;
  opened.memory_offset = header.memory_offset;
  opened.memory_checksum = header.memory_checksum;
  return opened;
}

Result<void> CheckTemplateMemory(const Template& opened, const FileKind& kind) {
  // Read, and not mapped: the disk's error, or another's truncation, would be a SIGBUS.
  constexpr size_t kPiece = 256 << 10;  // bytes; more than malloc keeps
  std::vector<uint8_t> piece(kPiece);
  uint32_t checksum = 0;
  for (uint64_t at = opened.memory_offset; at < opened.identity.size;) {
    const ssize_t got =
        ::pread(opened.file.get(), piece.data(),
                std::min<uint64_t>(kPiece, opened.identity.size - at), static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return SystemErrorOf(kind, "_DAMAGED", "pread", "cannot read the memory of");
    if (got == 0) return Damaged(kind, "is cut short");
    checksum = Crc32c(std::span(piece).first(static_cast<size_t>(got)), checksum);
    at += static_cast<uint64_t>(got);
  }
  if (checksum != opened.memory_checksum) {
    return Damaged(kind, "holds memory that does not match its checksum");
  }
  return {};
}

Result<void> WriteTemplate(int fd, const TemplateOrigin& origin, std::span<const uint8_t> state,
                           const kvm::GuestMemory& memory, const FileKind& kind) {
  std::vector<kvm::MemoryExtent> extents;
  for (const kvm::MemoryRegion& region : memory.regions()) {
    FindExtents(region, memory.fd(), &extents);
  }
  // A VM that has run for long has its memory in more pieces than one that waits.
  for (uint64_t gap = 2 * kMaxGap; extents.size() > kMaxExtents; gap *= 2) Join(gap, &extents);
  Header header{};
  header.magic = kind.magic;
  header.version = kind.version;
  const size_t head_size = sizeof header + 2 * sizeof(uint32_t) +
                           extents.size() * sizeof(kvm::MemoryExtent) + state.size();
  if (head_size > kind.most_head) {
    return FileError(kind, "_WRITE", "cannot be written: the VM's state is too large for it");
  }
  header.head_size = static_cast<uint32_t>(head_size);
  header.memory_offset = RoundUp(header.head_size);
  header.file_size = header.memory_offset;
  header.origin = origin;
  for (kvm::MemoryExtent& extent : extents) {
    const auto bytes = memory.Slice(extent.guest_address, extent.size);
    if (!bytes.ok()) return bytes.error();
    extent.file_offset = header.file_size;
    header.memory_checksum = Crc32c(bytes.value(), header.memory_checksum);
    CLEARVM_RETURN_IF_ERROR(WriteAll(fd, bytes.value(), extent.file_offset, kind));
    header.file_size += extent.size;
  }
  const auto head = [&] {
    ByteWriter writer;
    writer.Put(header);
    writer.PutList(std::span<const kvm::MemoryExtent>(extents));
    writer.PutList(state);
    return writer;
  };
  header.head_checksum = Crc32c(head().bytes());
  CLEARVM_RETURN_IF_ERROR(WriteAll(fd, head().bytes(), 0, kind));
  return {};
}

}  // namespace clearvm::vmm
