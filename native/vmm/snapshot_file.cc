#include "native/vmm/snapshot_file.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cstdio>

namespace clearvm::vmm {
namespace {

constexpr size_t kMaxText = 256;  // bytes; a FileIdentity has at most 105

bool Says(const std::string& path, const std::string& text) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  char bytes[kMaxText];
  const ssize_t got = file.valid() ? ::read(file.get(), bytes, sizeof bytes) : -1;
  return got >= 0 && std::string_view(bytes, static_cast<size_t>(got)) == text;
}

// Where it cannot be written, the memory is checked again the next time.
void Say(const std::string& path, const std::string& text) {
  const std::string unfinished = path + ".new";
  const UniqueFd file(
      ::open(unfinished.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (file.valid() &&
      ::write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size())) {
    std::rename(unfinished.c_str(), path.c_str());
  }
}

}  // namespace

Result<Template> OpenSnapshot(const std::string& path, const std::string& checked,
                              const TemplateOrigin& host) {
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!file.valid() || ::flock(file.get(), LOCK_SH | LOCK_NB) != 0) {
    return SystemError(
        file.valid() || errno != ENOENT ? "ERR_SNAPSHOT_DAMAGED" : "ERR_SNAPSHOT_MISSING",
        file.valid() ? "flock" : "open", "cannot open the snapshot " + path);
  }
  CLEARVM_ASSIGN(Template opened, ReadTemplate(std::move(file), path, host, kSnapshotFile));
  const std::string identity = opened.identity.Text();
  if (!checked.empty() && Says(checked, identity)) return opened;
  CLEARVM_RETURN_IF_ERROR(CheckTemplateMemory(opened, kSnapshotFile));
  if (!checked.empty()) Say(checked, identity);
  return opened;
}

}  // namespace clearvm::vmm
