// Serves one directory over a Unix or TCP socket, one connection after another: for other clients
// than our own tests, the Linux kernel's above all.
//
//   p9_socket_server [--ro] [--xattrs] --unix PATH DIRECTORY
//   p9_socket_server [--ro] [--xattrs] --tcp PORT DIRECTORY      (loopback only)
//
// Then: mount -t 9p -o trans=unix,version=9p2000.L,cache=loose,access=client PATH /mnt
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstdio>
#include <cstdlib>

#include "test/native/p9_socket.h"

namespace {

using clearvm::UniqueFd;

[[noreturn]] void Fail(const char* what) {
  std::perror(what);
  std::exit(1);
}

UniqueFd Listen(const char* unix_path, const char* tcp_port) {
  UniqueFd fd(socket(unix_path != nullptr ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) Fail("socket");
  int result;
  if (unix_path != nullptr) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::snprintf(address.sun_path, sizeof(address.sun_path), "%s", unix_path);
    result = bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address));
  } else {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<uint16_t>(std::atoi(tcp_port)));
    const int on = 1;
    setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    result = bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address));
  }
  if (result < 0) Fail("bind");
  if (listen(fd.get(), 1) < 0) Fail("listen");
  return fd;
}

}  // namespace

int main(int argc, char** argv) {
  clearvm::p9::Export config;
  const char* unix_path = nullptr;
  const char* tcp_port = nullptr;
  const char* directory = nullptr;
  for (int i = 1; i < argc; i++) {
    const std::string argument = argv[i];
    if (argument == "--ro") {
      config.read_only = true;
    } else if (argument == "--xattrs") {
      config.ownership = clearvm::p9::Ownership::kXattrs;
    } else if (argument == "--unix" && i + 1 < argc) {
      unix_path = argv[++i];
    } else if (argument == "--tcp" && i + 1 < argc) {
      tcp_port = argv[++i];
    } else {
      directory = argv[i];
    }
  }
  if (directory == nullptr || (unix_path == nullptr) == (tcp_port == nullptr)) {
    std::fprintf(stderr, "usage: %s [--ro] [--xattrs] --unix PATH|--tcp PORT DIRECTORY\n", argv[0]);
    return 2;
  }
  umask(0);
  rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  config.root.reset(open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!config.root.valid()) Fail(directory);
  const size_t max_message = config.max_message;
  auto server = clearvm::p9::Server::Create(std::move(config));
  if (!server.ok()) {
    std::fprintf(stderr, "%s\n", server.error().message.c_str());
    return 1;
  }
  const UniqueFd listener = Listen(unix_path, tcp_port);
  std::printf("serving %s\n", directory);
  std::fflush(stdout);
  while (true) {
    const UniqueFd connection(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!connection.valid()) Fail("accept");
    const int on = 1;
    if (tcp_port != nullptr) {
      setsockopt(connection.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }
    clearvm::p9::test::ServeStream(connection.get(), server.value().get(), max_message);
  }
}
