// The devices of a VM, and what they are connected to in its process.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "native/virtio/balloon.h"
#include "native/virtio/console.h"
#include "native/virtio/fs9p.h"
#include "native/virtio/rng.h"
#include "native/vmm/host_files.h"
#include "native/vmm/vmm.h"
#include "native/vmm/vsock_streams.h"

namespace clearvm::vmm {
namespace {

constexpr char kJailedSocketDirectory[] = "/vsock";

}  // namespace

Result<void> Vmm::AddDevices(jail::Entered entered, std::unique_ptr<virtio::Vsock> vsock) {
  session_->AttachMachine(machine_.get());
  failure_ = CLEARVM_FAILURE_DEVICE;
  if (options_.listen_fd >= 0) {
    streams_ = std::make_unique<VsockStreams>(vsock.get(), io_loop_,
                                              Duplicate(entered.proc_self_fd.get()));
    CLEARVM_RETURN_IF_ERROR(session_->AttachListener(UniqueFd(options_.listen_fd), streams_.get()));
    session_->SetTakeSnapshot([this](int file) { return TakeSnapshot(file); });
  }
  CLEARVM_RETURN_IF_ERROR(AddExports(std::move(entered)));
  return AddIoDevices(std::move(vsock));
}

// Each export on a thread of its own: a slow volume must not hold up the root.
Result<void> Vmm::AddExports(jail::Entered entered) {
  for (const ExportOption& option : options_.exports) {
    // The first device's: a template's becomes the root's.
    virtio::WindowPlace window;
    if (&option == &options_.exports[0]) window = {kvm::kWindowStart, machine_->window().size()};
    if (!option.served) {
      CLEARVM_ASSIGN(auto idle, virtio::Create9p(option.tag, nullptr, window));
      CLEARVM_RETURN_IF_ERROR(machine_->AddDevice(std::move(idle), io_loop_));
      continue;
    }
    p9::Export config;
    config.root =
        std::move(option.overlay ? entered.overlays[option.index] : entered.shares[option.index]);
    config.proc_self_fd = Duplicate(entered.proc_self_fd.get());
    config.read_only = option.read_only;
    config.exclusive = option.overlay;
    config.ownership = option.ownership;
    if (option.window && window.size > 0) {
      config.window = machine_->window();
      config.upper = std::move(entered.uppers[option.index]);
    }
    CLEARVM_ASSIGN(auto server, p9::Server::Create(std::move(config)));
    CLEARVM_ASSIGN(auto device, virtio::Create9p(option.tag, std::move(server), window));
    EventLoop* loop = std::exchange(root_loop_, nullptr);
    if (loop == nullptr) {
      CLEARVM_ASSIGN(loop, NewLoop(jail::ThreadKind::kFs));
    }
    CLEARVM_RETURN_IF_ERROR(machine_->AddDevice(std::move(device), loop));
  }
  return {};
}

Result<void> Vmm::AddIoDevices(std::unique_ptr<virtio::Vsock> vsock) {
  auto sink = [this](std::span<const uint8_t> bytes) {
    log_.AppendConsole(bytes);
    // A reader that is gone or slow to take the log costs it lines, never the VM its life.
    while (console_.valid() && !bytes.empty()) {
      const iovec rest{const_cast<uint8_t*>(bytes.data()), bytes.size()};
      const ssize_t wrote = console_.Write(&rest, 1);
      if (wrote <= 0) return;
      bytes = bytes.subspan(static_cast<size_t>(wrote));
    }
  };
  CLEARVM_RETURN_IF_ERROR(machine_->AddDevice(virtio::CreateConsole(sink), io_loop_));
  CLEARVM_RETURN_IF_ERROR(machine_->AddDevice(virtio::CreateRng(Saving()), io_loop_));
  CLEARVM_RETURN_IF_ERROR(machine_->AddDevice(std::move(vsock), io_loop_));
  const auto inflated = static_cast<uint32_t>(options_.balloon / 4096);
  return machine_->AddDevice(virtio::CreateBalloon(&machine_->memory(), inflated), io_loop_);
}

Result<std::unique_ptr<virtio::Vsock>> Vmm::MakeVsock(EventLoop* loop) {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
    return SystemError("ERR_VMM", "socketpair", "cannot make init's control stream");
  }
  UniqueFd guest_side(pair[0]);
  CLEARVM_RETURN_IF_ERROR(session_->AttachAgent(UniqueFd(pair[1])));
  virtio::VsockOptions vsock;
  vsock.ports.push_back({CLEARVM_PORT_CONTROL, Duplicate(guest_side.get()), std::move(guest_side)});
  const bool by_hand = options_.control_fd < 0;
  const auto stdio = [by_hand](int given, int own) { return given < 0 && by_hand ? own : given; };
  const int in = stdio(options_.stdin_fd, 0);
  const int out = stdio(options_.stdout_fd, 1);
  if (options_.terminal) {
    AddOutput(vsock, CLEARVM_PORT_STDOUT, Duplicate(in), out);
  } else {
    if (in >= 0) vsock.ports.push_back({CLEARVM_PORT_STDIN, Duplicate(in), UniqueFd(), true});
    AddOutput(vsock, CLEARVM_PORT_STDOUT, UniqueFd(), out);
    AddOutput(vsock, CLEARVM_PORT_STDERR, UniqueFd(), stdio(options_.stderr_fd, 2));
  }
  if (!options_.vsock_path.empty()) {
    CLEARVM_ASSIGN(vsock.unix_listener, ListenAt(options_.vsock_path));
    vsock.unix_path = options_.vsock_path;
    if (Jailed()) {
      vsock.unix_path.replace(0, Directory(options_.vsock_path).size(), kJailedSocketDirectory);
    }
  }
  Timeline* timeline = timeline_;
  vsock.on_first_bytes = [timeline](uint32_t port) {
    if (port == CLEARVM_PORT_STDOUT || port == CLEARVM_PORT_STDERR) {
      timeline->Stamp(CLEARVM_TIME_FIRST_OUTPUT);
    }
  };
  Session* session = session_.get();
  vsock.on_drained = [session](uint32_t port) { session->PostDrained(port); };
  return virtio::CreateVsock(std::move(vsock), loop);
}

void Vmm::AddOutput(virtio::VsockOptions& vsock, uint32_t port, UniqueFd read, int fd) {
  if (fd < 0) return;
  vsock.ports.push_back({port, std::move(read), Duplicate(fd), true});
  // An inherited descriptor is a stream's last writer: its reader waits for us to close it.
  if (fd > 2) ::close(fd);
  session_->AwaitDrain(port);
}

}  // namespace clearvm::vmm
