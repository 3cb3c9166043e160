#include "native/vmm/host_files.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "native/protocol/agent.h"

namespace clearvm::vmm {
namespace {

constexpr char kShmemPolicy[] = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

}  // namespace

UniqueFd Duplicate(int fd) { return UniqueFd(fd < 0 ? -1 : ::fcntl(fd, F_DUPFD_CLOEXEC, 3)); }

std::string Directory(const std::string& path) { return path.substr(0, path.rfind('/')); }

Result<UniqueFd> OpenFile(const FileOption& option, const char* code) {
  const int fd = option.fd >= 0 ? ::fcntl(option.fd, F_DUPFD_CLOEXEC, 3)
                                : ::open(option.path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return SystemError(
        code, option.fd >= 0 ? "fcntl" : "open",
        option.fd >= 0 ? "cannot use an inherited file" : "cannot open " + option.path);
  }
  return UniqueFd(fd);
}

Result<std::vector<uint8_t>> ReadSpec(const FileOption& option) {
  CLEARVM_ASSIGN(const UniqueFd file, OpenFile(option, "ERR_VMM_SPEC"));
  std::vector<uint8_t> bytes(CLEARVM_FRAME_MAX + 1);
  size_t size = 0;
  for (ssize_t got = 1; got > 0 && size < bytes.size(); size += static_cast<size_t>(got)) {
    got = ::read(file.get(), bytes.data() + size, bytes.size() - size);
    if (got < 0) return SystemError("ERR_VMM_SPEC", "read", "cannot read the spec");
  }
  if (size > CLEARVM_FRAME_MAX) {
    return Error{"ERR_VMM_SPEC", 0, "", "the spec is larger than 1 MiB"};
  }
  bytes.resize(size);
  return bytes;
}

kvm::Backing ChooseBacking(BackingOption option) {
  if (option == BackingOption::kMemfd) return kvm::Backing::kMemfd;
  if (option == BackingOption::kAnonymous) return kvm::Backing::kAnonymous;
  if (option == BackingOption::kHugePages) return kvm::Backing::kHugePages;
  char policy[128] = "";
  if (const UniqueFd file(::open(kShmemPolicy, O_RDONLY | O_CLOEXEC)); file.valid()) {
    [[maybe_unused]] ssize_t got = ::read(file.get(), policy, sizeof policy - 1);
  }
  for (const char* good : {"[always]", "[advise]", "[within_size]", "[force]"}) {
    if (std::strstr(policy, good) != nullptr) return kvm::Backing::kMemfd;
  }
  return kvm::Backing::kAnonymous;
}

Result<UniqueFd> ListenAt(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return Error{"ERR_VMM_VSOCK", 0, "", path + ": too long for the path of a socket"};
  }
  std::memcpy(address.sun_path, path.c_str(), path.size());
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid() ||
      ::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(socket.get(), 64) != 0) {
    return SystemError("ERR_VMM_VSOCK", "bind", "cannot listen at " + path);
  }
  return socket;
}

}  // namespace clearvm::vmm
