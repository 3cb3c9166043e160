#include "native/base/unix_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstdio>

namespace clearvm {
namespace {

constexpr int kBacklog = 128;

struct Address {
  UniqueFd directory;  // the name is one in it
  sockaddr_un name{};
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&name); }
};

// Paths of sockets are limited to 107 bytes: so the directory is named by a descriptor.
Result<Address> AddressOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string directory = path.substr(0, slash + 1);
  Address address{UniqueFd(::open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC))};
  if (!address.directory.valid()) {
    return SystemError("ERR_SOCKET", "open", "the directory of the socket " + path);
  }
  address.name.sun_family = AF_UNIX;
  const int length =
      std::snprintf(address.name.sun_path, sizeof address.name.sun_path, "/proc/self/fd/%d/%s",
                    address.directory.get(), path.c_str() + slash + 1);
  if (static_cast<size_t>(length) < sizeof address.name.sun_path) return address;
  return Error{"ERR_SOCKET", ENAMETOOLONG, "bind",
               "the name of the socket " + path + " is too long"};
}

UniqueFd NewSocket() {
  return UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

}  // namespace

Result<UniqueFd> ListenUnix(const std::string& path) {
  CLEARVM_ASSIGN(const Address address, AddressOf(path));
  UniqueFd socket = NewSocket();
  // The mode is that of the name to come.
  if (!socket.valid() || ::fchmod(socket.get(), 0600) != 0 ||
      ::bind(socket.get(), address.get(), sizeof address.name) != 0 ||
      ::listen(socket.get(), kBacklog) != 0) {
    return SystemError("ERR_SOCKET", "bind", "cannot listen at " + path);
  }
  return socket;
}

Result<UniqueFd> ConnectUnix(const std::string& path) {
  CLEARVM_ASSIGN(const Address address, AddressOf(path));
  UniqueFd socket = NewSocket();
  if (!socket.valid() || ::connect(socket.get(), address.get(), sizeof address.name) != 0) {
    return SystemError("ERR_SOCKET", "connect", "cannot connect to " + path);
  }
  return socket;
}

}  // namespace clearvm
