#include "native/vmm/template_cache.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "native/base/bytes.h"
#include "native/base/crc32c.h"

namespace clearvm::vmm {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kHugePage = 2 << 20;
constexpr size_t kWorthHugePage = 448;  // pages that are not zero, of 512
constexpr uint64_t kSmallBehind = 8 << 20;
// Of a list of hot pages; more are not worth their memory.
constexpr size_t kMaxRuns = 1024;
constexpr uint64_t kMaxHotPages = 1024;

// The runs follow it.
struct HotHeader {
  char magic[8];
  uint32_t count;
  uint32_t checksum;  // of the runs
};
constexpr char kHotMagic[8] = {'C', 'L', 'V', 'M', 'H', 'O', 'T', '1'};

// A run of pages in one number: its address, and how many more pages there are behind the first.
uint64_t PackRun(uint64_t address, uint64_t more) { return address | more; }
uint64_t RunAddress(uint64_t run) { return run & ~(kPage - 1); }
uint64_t RunSize(uint64_t run) { return (1 + (run & (kPage - 1))) * kPage; }

std::string NameInCache(const std::string& base, const Template& opened, const char* kind) {
  return base + "." + opened.identity.Text() + kind;
}

uint64_t EndOf(const std::vector<kvm::MemoryExtent>& extents) {
  return extents.empty() ? 0 : extents.back().guest_address + extents.back().size;
}

bool ReadFully(int file, std::span<uint8_t> bytes, uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t got = ::pread(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (got <= 0) return false;
    bytes = bytes.subspan(static_cast<size_t>(got));
    offset += static_cast<uint64_t>(got);
  }
  return true;
}

bool IsZero(std::span<const uint8_t> page) {
  return page[0] == 0 && std::memcmp(page.data(), page.data() + 1, page.size() - 1) == 0;
}

// Copies whole pages that lie in one block of 2 MiB; those of zeroes are left out, for they read
// the same. A huge page holds next to nothing but what is needed anyway.
void CopyBlock(std::span<const uint8_t> from, uint8_t* to) {
  std::vector<size_t> pages;
  for (size_t at = 0; at < from.size(); at += kPage) {
    if (!IsZero(from.subspan(at, kPage))) pages.push_back(at);
  }
  if (pages.size() >= kWorthHugePage) ::madvise(to, kHugePage, MADV_HUGEPAGE);
  for (size_t at : pages) std::memcpy(to + at, from.data() + at, kPage);
}

// Copies the template's memory into `target`, each page to its guest-physical address: then the
// file's huge pages are the guest's.
bool CopyMemory(const Template& opened, int target) {
  const uint64_t end = EndOf(opened.extents);
  if (::ftruncate(target, static_cast<off_t>(end)) != 0) return false;
  const uint64_t reserved = end + kHugePage;
  void* address =
      ::mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) return false;
  const UniqueMapping reservation(address, reserved);
  uint8_t* base = reservation.data() + (-reinterpret_cast<uint64_t>(address) & (kHugePage - 1));
  if (::mmap(base, end, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, target, 0) == MAP_FAILED) {
    return false;
  }
  std::vector<uint8_t> block(kHugePage);
  for (const kvm::MemoryExtent& extent : opened.extents) {
    const uint64_t end_of_extent = extent.guest_address + extent.size;
    for (uint64_t at = extent.guest_address; at < end_of_extent;) {
      const uint64_t next = std::min((at | (kHugePage - 1)) + 1, end_of_extent);
      const std::span<uint8_t> bytes = std::span(block).first(next - at);
      if (!ReadFully(opened.file.get(), bytes, extent.file_offset + (at - extent.guest_address))) {
        return false;
      }
      CopyBlock(bytes, base + at);
      at = next;
    }
  }
  return true;
}

void UseCopy(UniqueFd copy, Template* opened) {
  opened->file = std::move(copy);
  opened->file_size = EndOf(opened->extents);
  for (kvm::MemoryExtent& extent : opened->extents) extent.file_offset = extent.guest_address;
}

}  // namespace

Result<void> UseCachedMemory(const std::string& base, Template* opened) {
  const std::string name = NameInCache(base, *opened, ".mem");
  UniqueFd copy(::open(name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (copy.valid()) {
    UseCopy(std::move(copy), opened);
    return {};
  }
  CLEARVM_RETURN_IF_ERROR(CheckTemplateMemory(*opened));
  // Several may be at it: each under a name of its own, and the last to be done wins.
  std::string unfinished = name + ".XXXXXX";
  copy = UniqueFd(::mkostemp(unfinished.data(), O_CLOEXEC));
  if (!copy.valid()) return {};
  if (!CopyMemory(*opened, copy.get()) || ::rename(unfinished.c_str(), name.c_str()) != 0) {
    ::unlink(unfinished.c_str());
    return {};
  }
  copy = UniqueFd(::open(name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (copy.valid()) UseCopy(std::move(copy), opened);
  return {};
}

HotPages HotPages::Open(const std::string& base, const Template& opened) {
  HotPages pages;
  const std::string name = NameInCache(base, opened, ".hot");
  pages.file_ = UniqueFd(::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  std::vector<uint8_t> bytes(sizeof(HotHeader) + kMaxRuns * sizeof(uint64_t));
  const ssize_t got = ::pread(pages.file_.get(), bytes.data(), bytes.size(), 0);
  ByteReader in(std::span<const uint8_t>(bytes).first(got < 0 ? 0 : static_cast<size_t>(got)));
  const auto header = in.Take<HotHeader>();
  const bool known = in.ok() && std::memcmp(header.magic, kHotMagic, sizeof kHotMagic) == 0 &&
                     header.count <= kMaxRuns;
  if (known) {
    const auto runs = in.TakeBytes(header.count * sizeof(uint64_t));
    if (in.ok() && Crc32c(runs) == header.checksum) {
      pages.runs_.resize(header.count);
      if (!runs.empty()) std::memcpy(pages.runs_.data(), runs.data(), runs.size());
      uint64_t bytes_of_runs = 0;
      for (uint64_t run : pages.runs_) bytes_of_runs += RunSize(run);
      if (bytes_of_runs > kMaxHotPages * kPage) pages.runs_.clear();
      pages.Close();
      return pages;
    }
  }
  if (pages.file_.valid()) {
    pages.pagemap_ = UniqueFd(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  }
  return pages;
}

void HotPages::Populate(const kvm::GuestMemory& memory) const {
  // In huge pages it could not be told which of their pages was written.
  if (Unknown()) return memory.AdviseHugePages(0, UINT64_MAX, false);
  // Those that a container needs to start would each make 2 MiB of a few pages; a container that
  // needs more has more use for them.
  uint64_t small_from = 0;
  uint64_t small_to = 0;
  const auto advise = [&](uint64_t next) {
    memory.AdviseHugePages(small_from, small_to - small_from, false);
    memory.AdviseHugePages(small_to, next - small_to);
  };
  std::vector<std::span<uint8_t>> runs;
  for (uint64_t run : runs_) {
    uint8_t* at = memory.Translate(RunAddress(run), RunSize(run));
    if (at == nullptr) continue;
    runs.push_back({at, RunSize(run)});
    const uint64_t from = RunAddress(run) & ~(kHugePage - 1);
    if (from > small_to) {
      advise(from);
      small_from = from;
    }
    // And behind: the guest goes on there, and a container that idles needs a few pages more.
    const uint64_t end = RunAddress(run) + RunSize(run);
    small_to = std::max(small_to, ((end + kHugePage - 1) & ~(kHugePage - 1)) + kSmallBehind);
  }
  advise(UINT64_MAX);
  for (std::span<uint8_t> run : runs) ::madvise(run.data(), run.size(), MADV_POPULATE_WRITE);
}

void HotPages::Record(const kvm::GuestMemory& memory) {
  Write(memory);
  Close();
  memory.AdviseHugePages(0, UINT64_MAX);
}

void HotPages::Write(const kvm::GuestMemory& memory) const {
  // Documentation/admin-guide/mm/pagemap.rst.
  constexpr uint64_t kPresent = 1ull << 63;
  constexpr uint64_t kFilePage = 1ull << 61;
  std::vector<uint64_t> runs;
  std::vector<uint64_t> entries(4096);
  uint64_t pages = 0;
  uint64_t next = UINT64_MAX;
  for (const kvm::MemoryRegion& region : memory.regions()) {
    for (uint64_t at = 0; at < region.size; at += entries.size() * kPage) {
      const uint64_t first = (reinterpret_cast<uint64_t>(region.host_address) + at) / kPage;
      const uint64_t count = std::min<uint64_t>(entries.size(), (region.size - at) / kPage);
      const auto size = static_cast<ssize_t>(count * sizeof entries[0]);
      if (::pread(pagemap_.get(), entries.data(), static_cast<size_t>(size),
                  static_cast<off_t>(first * sizeof entries[0])) != size) {
        return;
      }
      for (uint64_t i = 0; i < count && pages < kMaxHotPages; i++) {
        if ((entries[i] & (kPresent | kFilePage)) != kPresent) continue;
        const uint64_t address = region.guest_address + at + i * kPage;
        if (address == next) {
          runs.back()++;
        } else if (runs.size() < kMaxRuns) {
          runs.push_back(PackRun(address, 0));
        } else {
          break;
        }
        next = address + kPage;
        pages++;
      }
    }
  }
  HotHeader header{};
  std::memcpy(header.magic, kHotMagic, sizeof kHotMagic);
  header.count = static_cast<uint32_t>(runs.size());
  const std::span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(runs.data()),
                                       runs.size() * sizeof(uint64_t));
  header.checksum = Crc32c(bytes);
  ByteWriter out;
  out.Put(header);
  out.PutBytes(bytes);
  // One call, so that of two writers one's list is whole.
  [[maybe_unused]] const ssize_t wrote =
      ::pwrite(file_.get(), out.bytes().data(), out.bytes().size(), 0);
}

void HotPages::Close() {
  pagemap_.reset();
  file_.reset();
}

}  // namespace clearvm::vmm
