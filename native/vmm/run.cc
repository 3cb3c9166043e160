#include "native/vmm/run.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "native/jail/seccomp.h"
#include "native/virtio/console.h"
#include "native/virtio/fs9p.h"
#include "native/virtio/rng.h"
#include "native/virtio/vsock.h"
#include "native/vmm/machine.h"
#include "native/vmm/session.h"

namespace clearvm::vmm {
namespace {

constexpr char kShmemPolicy[] = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
constexpr char kJailedSocketDirectory[] = "/vsock";

// An event loop with a thread of its own.
struct LoopThread {
  jail::ThreadKind kind;
  bool confine;
  std::unique_ptr<EventLoop> loop;
  Session* session;
  pthread_t thread;
};

void* RunLoopThread(void* argument) {
  auto* self = static_cast<LoopThread*>(argument);
  Result<void> result;
  if (self->confine) result = jail::ConfineThread(self->kind);
  if (result.ok()) result = self->loop->Run();
  if (!result.ok()) self->session->PostEnd({CLEARVM_FAILURE_DEVICE, result.error().message});
  return nullptr;
}

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

// Shared memory gets huge pages only where the host's policy allows it, and a guest boots far
// faster with them (docs/decisions): where it does not, private memory is the better choice for a
// VM that nobody snapshots.
kvm::Backing ChooseBacking(BackingOption option) {
  if (option != BackingOption::kAuto) {
    return option == BackingOption::kMemfd ? kvm::Backing::kMemfd : kvm::Backing::kAnonymous;
  }
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

// Of an absolute path, without the slash behind it: "" for a file in the root.
std::string Directory(const std::string& path) { return path.substr(0, path.rfind('/')); }

UniqueFd Duplicate(int fd) { return UniqueFd(fd < 0 ? -1 : ::fcntl(fd, F_DUPFD_CLOEXEC, 3)); }

class Vmm {
 public:
  Vmm(const Options& options, Timeline* timeline)
      : options_(options), timeline_(timeline), loop_(EventLoop::Create()) {}

  int Run() {
    if (!loop_.ok()) {
      std::fprintf(stderr, "clearvm-vmm: %s\n", loop_.error().message.c_str());
      return 125;
    }
    session_ = std::make_unique<Session>(loop_.value().get(), timeline_, &log_);
    if (auto up = SetUp(); !up.ok()) {
      session_->Fail(failure_, 125, up.error().message);
      return session_->exit_status();
    }
    if (auto ran = loop_.value()->Run(); !ran.ok()) {
      session_->Fail(CLEARVM_FAILURE_DEVICE, 125, ran.error().message);
    }
    return session_->exit_status();
  }

 private:
  // The life of a VM, as one list; failure_ says what an error of each part is.
  Result<void> SetUp() {
    failure_ = CLEARVM_FAILURE_CONFIG;
    if (options_.control_fd >= 0) {
      CLEARVM_RETURN_IF_ERROR(session_->AttachControl(UniqueFd(options_.control_fd)));
    }
    if (options_.spec.given()) {
      CLEARVM_ASSIGN(auto spec, ReadSpec(options_.spec));
      session_->SetSpec(std::move(spec));
    }
    if (options_.boot_only) session_->SetBootOnly();
    failure_ = CLEARVM_FAILURE_KERNEL;
    CLEARVM_ASSIGN(UniqueFd kernel, OpenFile(options_.kernel, "ERR_KERNEL_READ"));
    UniqueFd initrd;
    if (options_.initrd.given()) {
      CLEARVM_ASSIGN(initrd, OpenFile(options_.initrd, "ERR_INITRD"));
    }
    failure_ = CLEARVM_FAILURE_KVM;
    CLEARVM_ASSIGN(const kvm::System system, kvm::System::Open());
    MachineConfig config{options_.cpus, options_.memory, ChooseBacking(options_.backing),
                         3 + options_.exports.size(), options_.statistics};

    failure_ = CLEARVM_FAILURE_DEVICE;
    CLEARVM_ASSIGN(EventLoop * io_loop, NewLoop(jail::ThreadKind::kIo));
    // Before the jail: pipes and terminals are reopened through /proc.
    CLEARVM_ASSIGN(auto vsock, MakeVsock(io_loop));
    failure_ = CLEARVM_FAILURE_JAIL;
    CLEARVM_ASSIGN(jail::Entered entered, EnterJail());
    timeline_->Stamp(CLEARVM_TIME_VMM_JAILED);

    // Before the memory is filled: measured, it takes twice as long afterwards
    // (docs/benchmarks/README.md).
    failure_ = CLEARVM_FAILURE_KVM;
    CLEARVM_ASSIGN(kvm::Vm vm, system.CreateVm());
    failure_ = CLEARVM_FAILURE_KERNEL;
    CLEARVM_ASSIGN(GuestImage image, LoadGuest(config, {kernel.get(), initrd.get(), options_.debug,
                                                        options_.command_line}));
    timeline_->Stamp(CLEARVM_TIME_KERNEL_LOADED);

    failure_ = CLEARVM_FAILURE_KVM;
    CLEARVM_ASSIGN(machine_, Machine::Create(system, std::move(vm), std::move(image), config,
                                             timeline_, &log_));
    session_->AttachMachine(machine_.get());
    failure_ = CLEARVM_FAILURE_DEVICE;
    CLEARVM_RETURN_IF_ERROR(AddExports(std::move(entered)));
    CLEARVM_RETURN_IF_ERROR(AddIoDevices(io_loop, std::move(vsock)));

    failure_ = CLEARVM_FAILURE_JAIL;
    if (Jailed()) {
      const bool writable = std::any_of(options_.exports.begin(), options_.exports.end(),
                                        [](const ExportOption& entry) { return !entry.read_only; });
      CLEARVM_RETURN_IF_ERROR(jail::DropPrivileges(!options_.exports.empty(), writable));
      CLEARVM_RETURN_IF_ERROR(jail::InstallTrapReport());
    }
    failure_ = CLEARVM_FAILURE_DEVICE;
    for (auto& thread : loops_) CLEARVM_RETURN_IF_ERROR(StartLoop(*thread));
    failure_ = CLEARVM_FAILURE_KVM;
    Session* session = session_.get();
    CLEARVM_RETURN_IF_ERROR(
        machine_->Start(Jailed(), [session](VmEnd end) { session->PostEnd(std::move(end)); }));
    failure_ = CLEARVM_FAILURE_JAIL;
    if (Jailed()) return jail::ConfineThread(jail::ThreadKind::kMain);
    return {};
  }

  bool Jailed() const { return options_.jail != JailMode::kNone; }

  Result<jail::Entered> EnterJail() {
    jail::Plan plan = options_.jail_plan;
    if (!options_.vsock_path.empty()) plan.socket_directory = Directory(options_.vsock_path) + "/";
    return Jailed() ? jail::EnterRoot(plan) : jail::OpenUnconfined(plan);
  }

  Result<EventLoop*> NewLoop(jail::ThreadKind kind) {
    CLEARVM_ASSIGN(auto loop, EventLoop::Create());
    loops_.push_back(std::make_unique<LoopThread>(
        LoopThread{kind, Jailed(), std::move(loop), session_.get(), {}}));
    return loops_.back()->loop.get();
  }

  Result<void> StartLoop(LoopThread& thread) {
    const int error = ::pthread_create(&thread.thread, nullptr, RunLoopThread, &thread);
    if (error == 0) return {};
    errno = error;
    return SystemError("ERR_VMM", "pthread_create", "cannot start a device thread");
  }

  // Each export on a thread of its own: a slow volume must not hold up the root.
  Result<void> AddExports(jail::Entered entered) {
    for (const ExportOption& option : options_.exports) {
      p9::Export config;
      config.root =
          std::move(option.overlay ? entered.overlays[option.index] : entered.shares[option.index]);
      config.proc_self_fd = Duplicate(entered.proc_self_fd.get());
      config.read_only = option.read_only;
      config.ownership = option.ownership;
      CLEARVM_ASSIGN(auto server, p9::Server::Create(std::move(config)));
      CLEARVM_ASSIGN(auto device, virtio::Create9p(option.tag, std::move(server)));
      CLEARVM_ASSIGN(EventLoop * loop, NewLoop(jail::ThreadKind::kFs));
      CLEARVM_RETURN_IF_ERROR(machine_->AddDevice(std::move(device), loop));
    }
    return {};
  }

  Result<void> AddIoDevices(EventLoop* loop, std::unique_ptr<virtio::Device> vsock) {
    auto sink = [this](std::span<const uint8_t> bytes) {
      log_.AppendConsole(bytes);
      if (options_.console_fd < 0) return;
      // A reader that is gone or slow to take the log costs it lines, never the VM its life.
      [[maybe_unused]] ssize_t wrote = ::write(options_.console_fd, bytes.data(), bytes.size());
    };
    CLEARVM_RETURN_IF_ERROR(machine_->AddDevice(virtio::CreateConsole(sink), loop));
    CLEARVM_RETURN_IF_ERROR(machine_->AddDevice(virtio::CreateRng(), loop));
    return machine_->AddDevice(std::move(vsock), loop);
  }

  Result<std::unique_ptr<virtio::Device>> MakeVsock(EventLoop* loop) {
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
      return SystemError("ERR_VMM", "socketpair", "cannot make init's control stream");
    }
    UniqueFd guest_side(pair[0]);
    CLEARVM_RETURN_IF_ERROR(session_->AttachAgent(UniqueFd(pair[1])));
    virtio::VsockOptions vsock;
    vsock.ports.push_back(
        {CLEARVM_PORT_CONTROL, Duplicate(guest_side.get()), std::move(guest_side)});
    const bool by_hand = options_.control_fd < 0;
    const auto stdio = [by_hand](int given, int own) { return given < 0 && by_hand ? own : given; };
    const int in = stdio(options_.stdin_fd, 0);
    if (in >= 0) vsock.ports.push_back({CLEARVM_PORT_STDIN, Duplicate(in), UniqueFd()});
    AddOutput(vsock, CLEARVM_PORT_STDOUT, stdio(options_.stdout_fd, 1));
    AddOutput(vsock, CLEARVM_PORT_STDERR, stdio(options_.stderr_fd, 2));
    if (!options_.vsock_path.empty()) {
      CLEARVM_ASSIGN(vsock.unix_listener, ListenAt(options_.vsock_path));
      vsock.unix_path = options_.vsock_path;
      if (Jailed()) {
        vsock.unix_path.replace(0, Directory(options_.vsock_path).size(), kJailedSocketDirectory);
      }
    }
    Timeline* timeline = timeline_;
    vsock.on_first_bytes = [timeline](uint32_t port) {
      if (port != CLEARVM_PORT_CONTROL) timeline->Stamp(CLEARVM_TIME_FIRST_OUTPUT);
    };
    Session* session = session_.get();
    vsock.on_drained = [session](uint32_t port) { session->PostDrained(port); };
    return virtio::CreateVsock(std::move(vsock), loop);
  }

  void AddOutput(virtio::VsockOptions& vsock, uint32_t port, int fd) {
    if (fd < 0) return;
    vsock.ports.push_back({port, UniqueFd(), Duplicate(fd)});
    // An inherited descriptor is a stream's last writer: its reader waits for us to close it.
    if (fd > 2) ::close(fd);
    session_->AwaitDrain(port);
  }

  const Options& options_;
  Timeline* timeline_;
  KernelLog log_;
  Result<std::unique_ptr<EventLoop>> loop_;
  std::unique_ptr<Session> session_;
  std::unique_ptr<Machine> machine_;
  std::vector<std::unique_ptr<LoopThread>> loops_;
  clearvm_failure failure_ = CLEARVM_FAILURE_CONFIG;
};

}  // namespace

int RunVmm(const Options& options, Timeline* timeline) {
  ::umask(0);  // the 9p server is told exact modes by the guest
  static Vmm* vmm = nullptr;
  // Never destroyed: the process ends next, and with it the VM, at once and whatever its threads
  // are doing.
  vmm = new Vmm(options, timeline);
  return vmm->Run();
}

}  // namespace clearvm::vmm
