// Unix stream sockets with a path.
#ifndef CLEARVM_BASE_UNIX_SOCKET_H_
#define CLEARVM_BASE_UNIX_SOCKET_H_

#include <string>

#include "native/base/fd.h"
#include "native/base/result.h"

namespace clearvm {

// Both are non-blocking and close-on-exec. `path` is absolute, of any length; its last part is
// limited to some 80 bytes. Errors: ERR_SOCKET.

// A socket that listens, made with mode 0600: there is no moment at which others could connect.
Result<UniqueFd> ListenUnix(const std::string& path);

// A connected one. With a full backlog it fails with EAGAIN, and without a listener with
// ECONNREFUSED or ENOENT.
Result<UniqueFd> ConnectUnix(const std::string& path);

}  // namespace clearvm

#endif  // CLEARVM_BASE_UNIX_SOCKET_H_
