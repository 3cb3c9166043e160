#include "native/base/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "native/base/fd.h"

namespace clearvm {
namespace {

Error StateError(const char* syscall, const std::string& path) {
  return SystemError("ERR_STATE", syscall, path);
}

Result<void> MakeOwned(const std::string& directory, const std::string& owner) {
  if (::mkdir(directory.c_str(), 0700) != 0) return StateError("mkdir", directory);
  const std::string link = directory + "/owner";
  if (::symlink(owner.c_str(), link.c_str()) != 0) return StateError("symlink", link);
  return {};
}

}  // namespace

Result<void> MakeContainerPlaces(const ContainerPlaces& places) {
  CLEARVM_RETURN_IF_ERROR(MakeOwned(places.run, places.owner));
  CLEARVM_RETURN_IF_ERROR(MakeOwned(places.data, places.owner));
  struct stat top;
  if (::stat(places.top_layer.c_str(), &top) != 0) return StateError("stat", places.top_layer);
  // It becomes the container's "/", whatever this process's umask is.
  const std::string upper = places.data + "/upper";
  if (::mkdir(upper.c_str(), 0700) != 0) return StateError("mkdir", upper);
  if (::chown(upper.c_str(), top.st_uid, top.st_gid) != 0) return StateError("chown", upper);
  if (::chmod(upper.c_str(), top.st_mode & 07777) != 0) return StateError("chmod", upper);
  const std::string work = places.data + "/work";
  if (::mkdir(work.c_str(), 0700) != 0) return StateError("mkdir", work);
  return {};
}

Result<void> WriteFile(const std::string& path, std::string_view text) {
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file.valid()) return StateError("open", path);
  while (!text.empty()) {
    const ssize_t wrote = ::write(file.get(), text.data(), text.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return StateError("write", path);
    text.remove_prefix(static_cast<size_t>(wrote));
  }
  return {};
}

}  // namespace clearvm
