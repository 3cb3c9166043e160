// A 9P2000.L server over one exported directory: bytes in, bytes out. It knows no transport.
#ifndef CLEARVM_P9_SERVER_H_
#define CLEARVM_P9_SERVER_H_

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <span>

#include "native/base/bytes.h"
#include "native/base/fd.h"
#include "native/base/result.h"

namespace clearvm::p9 {

// How file ownership reaches the guest.
enum class Ownership {
  kHost,    // host uids and gids are the guest's (the server has CAP_CHOWN, CAP_FOWNER,
            // CAP_DAC_OVERRIDE, CAP_MKNOD)
  kXattrs,  // kept in user xattrs (an unprivileged server): every host file belongs to the server's
            // user
};

struct Export {
  UniqueFd root;  // an O_PATH or O_RDONLY directory fd: nothing outside it is ever reached
  // An O_PATH fd of this process's /proc/self/fd, through which O_PATH fds are reopened for I/O. In
  // the jail it comes from a procfs of its own (jail::Entered); invalid: Create opens /proc/self/fd
  // itself.
  UniqueFd proc_self_fd;
  bool read_only = false;
  // Nobody else writes the files, and the client caches them: where it writes is where the bytes
  // belong, even by O_APPEND while the host's file still lacks what the client has cached.
  bool exclusive = false;
  Ownership ownership = Ownership::kHost;
  // Read-only memory that the client sees as well, for files that do not change (window.h); empty:
  // none. Only for an overlay, and `exclusive`.
  std::span<uint8_t> window;
  // The overlay's upper directory, O_PATH: what is not below it never changes. Invalid: it has
  // none.
  UniqueFd upper;
  uint32_t max_message = 512 * 1024;  // msize limit, bytes, 4096 to 1 MiB
  uint32_t max_fids = 65536;          // fids alive at once; more get ENFILE
};

// One client's session on one export. Not thread-safe: one thread at a time.
class Server {
 public:
  // Errors: ERR_9P_EXPORT (not a directory, limits out of range).
  static Result<std::unique_ptr<Server>> Create(Export config);
  ~Server();

  // Serves one request. `request`: the T-message, possibly scattered; `reply`: writable space,
  // possibly scattered, for the R-message. Both may be guest memory that changes at any time:
  // everything but bulk data is copied once, then checked. Bulk data of Tread and Twrite moves
  // between file and buffers with preadv/pwritev, uncopied. Returns the bytes of `reply` that were
  // filled; 0 when not even an Rlerror fits. Never fails otherwise: whatever is wrong with a
  // message is answered with Rlerror.
  size_t Handle(std::span<const iovec> request, std::span<const iovec> reply);

  // The client looks at the window: from now on, Rlopen's iounit is the file's place in it.
  void UseWindow();

  // Forgets every fid, as a new Tversion does.
  void Reset();

  // The session as bytes, for a snapshot: every fid, by the path of its file below the export; the
  // content of files that are open and have no name any more; locks. Between two requests. Errors:
  // ERR_SNAPSHOT_FILES: an open file that could not be opened again, by its name.
  Result<void> Save(ByteWriter& out);
  // Goes on with such a session over this export, which holds the same files, on a server that has
  // not been used. `in` may hold anything. Errors: ERR_SNAPSHOT_FILES: a file that is not there any
  // more, or locked by somebody else, by its name; ERR_DEVICE_STATE.
  Result<void> Restore(ByteReader& in);

 private:
  struct State;
  explicit Server(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace clearvm::p9

#endif  // CLEARVM_P9_SERVER_H_
