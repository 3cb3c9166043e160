#include "native/p9/server.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "native/p9/session.h"

namespace clearvm::p9 {
namespace {

constexpr char kCode[] = "ERR_9P_EXPORT";
constexpr uint32_t kMaxMessage = 1024 * 1024;

Error Invalid(std::string message) { return {kCode, 0, "", std::move(message)}; }

}  // namespace

struct Server::State : Session {
  using Session::Session;
};

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}
Server::~Server() = default;

Result<std::unique_ptr<Server>> Server::Create(Export config) {
  if (config.max_message < kMinMessage || config.max_message > kMaxMessage) {
    return Invalid("9p export: msize limit " + std::to_string(config.max_message) +
                   " is out of range; give 4096 to 1048576 bytes");
  }
  if (config.max_fids == 0) {
    return Invalid("9p export: the limit of fids is 0; give at least 1");
  }
  UniqueFd proc = std::move(config.proc_self_fd);
  if (!proc.valid()) proc.reset(open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!proc.valid()) {
    return SystemError(kCode, "open(/proc/self/fd)",
                       "9p export: open files cannot be opened again without /proc; mount it, or "
                       "create the server before it is gone");
  }
  auto fs = std::make_unique<HostFs>(std::move(proc), config.ownership, config.read_only,
                                     config.exclusive);
  NodeRef root;
  if (!config.root.valid()) return Invalid("9p export: there is no descriptor of its root");
  if (const Errno error = fs->Adopt(std::move(config.root), &root); error != 0) {
    errno = error;
    return SystemError(kCode, "fstat", "9p export: cannot stat its root");
  }
  if (!S_ISDIR(root->type)) {
    return Invalid("9p export: its root is not a directory; export the directory that holds it");
  }
  // /proc must be this process's: through another one's, all files would be missing or, worse,
  // others.
  if (const Errno error = fs->CheckReopen(*root); error != 0) {
    errno = error;
    return SystemError(kCode, "openat(/proc/self/fd)",
                       "9p export: the given /proc/self/fd is not this process's");
  }
  NodeRef upper;
  if (config.upper.valid()) {
    if (const Errno error = fs->Adopt(std::move(config.upper), &upper); error != 0) {
      errno = error;
      return SystemError(kCode, "fstat", "9p export: cannot stat its upper directory");
    }
  }
  auto state =
      std::make_unique<State>(std::move(fs), std::move(root), config.max_message, config.max_fids);
  state->SetWindow(config.window, std::move(upper));
  return std::unique_ptr<Server>(new Server(std::move(state)));
}

size_t Server::Handle(std::span<const iovec> request, std::span<const iovec> reply) {
  return state_->Handle(request, reply);
}

void Server::UseWindow() { state_->UseWindow(); }
void Server::Reset() { state_->Reset(); }
Result<void> Server::Save(ByteWriter& out) { return state_->Save(out); }
Result<void> Server::Restore(ByteReader& in) { return state_->Restore(in); }

}  // namespace clearvm::p9
