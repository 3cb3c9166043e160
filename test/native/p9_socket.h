// 9P over a byte stream, as the kernel's fd, tcp and unix transports speak it: messages one after
// another.
#ifndef CLEARVM_TEST_NATIVE_P9_SOCKET_H_
#define CLEARVM_TEST_NATIVE_P9_SOCKET_H_

#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "native/p9/protocol.h"
#include "native/p9/server.h"

namespace clearvm::p9::test {

inline bool ReadAll(int fd, void* to, size_t size) {
  for (size_t done = 0; done < size;) {
    const ssize_t got = read(fd, static_cast<char*>(to) + done, size - done);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    done += static_cast<size_t>(got);
  }
  return true;
}

inline bool WriteAll(int fd, const void* from, size_t size) {
  for (size_t done = 0; done < size;) {
    const ssize_t put = send(fd, static_cast<const char*>(from) + done, size - done, MSG_NOSIGNAL);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return false;
    done += static_cast<size_t>(put);
  }
  return true;
}

// Serves one connection until its end, or until a frame is not to be delimited any more.
inline void ServeStream(int fd, Server* server, size_t max_message) {
  std::vector<char> request(max_message);
  std::vector<char> reply(max_message);
  uint32_t size;
  while (ReadAll(fd, &size, sizeof(size))) {
    if (size < sizeof(size) || size > max_message) break;
    std::memcpy(request.data(), &size, sizeof(size));
    if (!ReadAll(fd, request.data() + sizeof(size), size - sizeof(size))) break;
    // In three parts each, so that whatever can fall across a boundary does.
    const size_t cut = std::min<size_t>(size, 9);
    const iovec in[] = {{request.data(), cut}, {request.data() + cut, size - cut}};
    const iovec out[] = {{reply.data(), kReadHeader},
                         {reply.data() + kReadHeader, 1000},
                         {reply.data() + kReadHeader + 1000, max_message - kReadHeader - 1000}};
    const size_t answered = server->Handle(in, out);
    if (!WriteAll(fd, reply.data(), answered)) break;
  }
  server->Reset();
}

}  // namespace clearvm::p9::test

#endif  // CLEARVM_TEST_NATIVE_P9_SOCKET_H_
