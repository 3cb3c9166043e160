// What a VMM reads of a template or a snapshot that anybody may have written. The first byte
// chooses the part: the file as it lies on disk (with its length and checksum put right, or nothing
// behind them would ever be reached), a 9p session's files, or the processes of a session. Seeds:
// test/fuzz/make_snapshot_corpus.mjs.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "native/base/crc32c.h"
#include "native/p9/server.h"
#include "native/vmm/execs.h"
#include "native/vmm/template.h"

namespace {

namespace fs = std::filesystem;
using namespace clearvm;

constexpr uint64_t kMemory = 1 << 20;

// Offsets in the header (docs/compatibility.md).
constexpr size_t kHeadSize = 12;
constexpr size_t kHeadChecksum = 16;
constexpr size_t kFileSize = 32;
constexpr size_t kHeader = 304;

void FuzzFile(std::span<const uint8_t> input) {
  std::vector<uint8_t> file(input.begin(), input.end());
  if (file.size() >= kHeader) {
    const uint64_t size = file.size();
    uint32_t head;
    std::memcpy(file.data() + kFileSize, &size, sizeof size);
    std::memcpy(&head, file.data() + kHeadSize, sizeof head);
    std::memset(file.data() + kHeadChecksum, 0, sizeof head);
    if (head <= size) {
      const uint32_t checksum = Crc32c(std::span(file).first(head));
      std::memcpy(file.data() + kHeadChecksum, &checksum, sizeof checksum);
    }
  }
  for (const vmm::FileKind& kind : {vmm::kTemplateFile, vmm::kSnapshotFile}) {
    UniqueFd fd(::memfd_create("fuzz", MFD_CLOEXEC));
    if (!fd.valid() ||
        ::write(fd.get(), file.data(), file.size()) != static_cast<ssize_t>(file.size())) {
      std::abort();
    }
    vmm::TemplateOrigin host;
    host.memory = kMemory;
    auto opened = vmm::ReadTemplate(std::move(fd), "fuzz", host, kind);
    if (!opened.ok()) continue;
    (void)vmm::CheckTemplateMemory(opened.value(), kind);
    auto memory = kvm::GuestMemory::CreateFrom(kMemory, opened.value().file.get(),
                                               opened.value().file_size, opened.value().extents);
    if (!memory.ok()) continue;
    // Nothing may be mapped that is not there: that would be a SIGBUS here.
    volatile uint8_t sum = 0;
    for (const auto& region : memory.value().regions()) {
      for (uint64_t at = 0; at < region.size; at += 4096) sum = sum + region.host_address[at];
    }
  }
}

// A fresh directory for each input, with a secret beside it.
class Export {
 public:
  Export() {
    std::string name = (fs::temp_directory_path() / "snapshot-fuzz-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    top_ = name;
    Clean();
  }
  ~Export() { fs::remove_all(top_); }
  void Clean() {
    fs::remove_all(top_ / "export");
    fs::create_directories(top_ / "export/dir");
    Write(top_ / "secret", "secret");
    Write(top_ / "export/file", "text");
    fs::create_symlink("../secret", top_ / "export/link");
  }
  UniqueFd Open() const {
    return UniqueFd(::open((top_ / "export").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  }
  bool SecretIsWhole() const { return fs::file_size(top_ / "secret") == 6; }

 private:
  static void Write(const fs::path& path, const char* text) {
    FILE* file = std::fopen(path.c_str(), "w");
    if (file == nullptr) std::abort();
    std::fputs(text, file);
    std::fclose(file);
  }
  fs::path top_;
};

void FuzzSession(std::span<const uint8_t> input) {
  static Export files;
  files.Clean();
  p9::Export config;
  config.root = files.Open();
  config.max_fids = 64;
  if (!input.empty() && (input[0] & 1) != 0) config.ownership = p9::Ownership::kXattrs;
  if (!input.empty() && (input[0] & 2) != 0) config.exclusive = true;
  constexpr size_t kWindow = 1 << 20;
  static void* const window =
      ::mmap(nullptr, kWindow, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (window == MAP_FAILED) std::abort();
  if (!input.empty() && (input[0] & 4) != 0) {
    config.window = {static_cast<uint8_t*>(window), kWindow};
  }
  auto server = p9::Server::Create(std::move(config));
  if (!server.ok()) std::abort();
  server.value()->UseWindow();
  ByteReader in(input.empty() ? input : input.subspan(1));
  if (server.value()->Restore(in).ok()) {
    // What was taken can be given again.
    ByteWriter out;
    (void)server.value()->Save(out);
  }
  if (!files.SecretIsWhole()) std::abort();
}

class NoStreams final : public vmm::Streams {
 public:
  Result<void> Open(uint32_t, UniqueFd, UniqueFd) override { return {}; }
  void Change(uint32_t, virtio::Vsock::PortChange) override {}
};

void FuzzExecs(std::span<const uint8_t> input) {
  NoStreams streams;
  vmm::Execs execs(&streams, [](uint16_t, uint32_t, std::span<const uint8_t>) {});
  ByteReader in(input);
  if (!execs.Restore(in).ok()) return;
  execs.HangUp();
  ByteWriter out;
  execs.Save(out);
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  ::umask(0);
  // Sizes are whatever the input says: sparse files of any are fine, full ones are not.
  const rlimit limit{1 << 24, 1 << 24};
  ::setrlimit(RLIMIT_FSIZE, &limit);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // libFuzzer has a handler of its own by now, which ends it.
  [[maybe_unused]] static const auto ignored = ::signal(SIGXFSZ, SIG_IGN);
  if (size == 0) return 0;
  const std::span<const uint8_t> rest(data + 1, size - 1);
  switch (data[0] % 3) {
    case 0:
      FuzzFile(rest);
      break;
    case 1:
      FuzzSession(rest);
      break;
    default:
      FuzzExecs(rest);
  }
  return 0;
}
