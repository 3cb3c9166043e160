#include "native/vmm/run.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>

#include "native/vmm/affinity.h"
#include "native/vmm/host_files.h"
#include "native/vmm/vmm.h"

namespace clearvm::vmm {
namespace {

constexpr size_t kOwnDevices = 4;  // console, rng, vsock, balloon
constexpr int kDescriptors = 1024;

void* RunLoopThread(void* argument) {
  auto* self = static_cast<LoopThread*>(argument);
  Result<void> result = jail::ConfineThread(self->kind, self->confinement);
  self->ready.wait();
  if (result.ok()) result = self->loop->Run();
  if (!result.ok()) self->session->PostEnd({CLEARVM_FAILURE_DEVICE, result.error().message});
  return nullptr;
}

}  // namespace

int Vmm::Run() {
  if (!loop_.ok()) {
    std::fprintf(stderr, "clearvm-vmm: %s\n", loop_.error().message.c_str());
    return 125;
  }
  session_ = std::make_unique<Session>(loop_.value().get(), timeline_, &log_);
  if (options_.spare) {
    const auto wanted = WaitAsSpare();
    if (!wanted.ok()) std::fprintf(stderr, "clearvm-vmm: %s\n", wanted.error().message.c_str());
    if (!wanted.ok() || !wanted.value()) return wanted.ok() ? 0 : 125;
  }
  if (auto up = SetUp(); !up.ok()) {
    if (up.error().code == "ERR_TEMPLATE_EXISTS") return 0;  // as was asked for
    session_->Fail(failure_, 125, up.error().message);
    return session_->exit_status();
  }
  if (auto ran = loop_.value()->Run(); !ran.ok()) {
    session_->Fail(CLEARVM_FAILURE_DEVICE, 125, ran.error().message);
  }
  return session_->exit_status();
}

Result<void> Vmm::SetUp() {
  failure_ = CLEARVM_FAILURE_CONFIG;
  if (options_.control_fd >= 0) {
    CLEARVM_RETURN_IF_ERROR(session_->AttachControl(UniqueFd(options_.control_fd)));
  }
  if (!options_.cpuset.empty()) CLEARVM_RETURN_IF_ERROR(RunOnProcessors(options_.cpuset));
  if (options_.spec.given()) {
    CLEARVM_ASSIGN(auto spec, ReadSpec(options_.spec));
    session_->SetSpec(std::move(spec));
  }
  if (options_.boot_only) session_->SetBootOnly();
  if (spare_) {
    CLEARVM_RETURN_IF_ERROR(CheckOrders());
  } else {
    CLEARVM_RETURN_IF_ERROR(LookAround());
  }

  failure_ = CLEARVM_FAILURE_DEVICE;
  if (io_loop_ == nullptr) {
    CLEARVM_ASSIGN(io_loop_, NewLoop(jail::ThreadKind::kIo));
  }
  // Before the jail: pipes and terminals are reopened through /proc.
  CLEARVM_ASSIGN(auto vsock, MakeVsock(io_loop_));
  if (options_.console_fd >= 0) {
    CLEARVM_ASSIGN(console_, virtio::HostFd::Adopt(Duplicate(options_.console_fd),
                                                   virtio::HostFd::Direction::kWrite));
  }
  failure_ = CLEARVM_FAILURE_JAIL;
  CLEARVM_ASSIGN(jail::Entered entered, EnterJail());
  timeline_->Stamp(CLEARVM_TIME_VMM_JAILED);

  ByteReader saved(template_ ? std::span<const uint8_t>(template_->state)
                             : std::span<const uint8_t>());
  if (!restoring_ && template_) {
    if (auto forked = Fork(saved); !forked.ok()) RefuseTemplate(forked.error());
  }
  if (restoring_) return SetUpRestored(saved, std::move(entered), std::move(vsock));
  if (!template_) CLEARVM_RETURN_IF_ERROR(Boot());
  CLEARVM_RETURN_IF_ERROR(AddDevices(std::move(entered), std::move(vsock)));
  if (template_) {
    CLEARVM_RETURN_IF_ERROR(machine_->RestoreDevices(saved));
    session_->TellOrigin(CLEARVM_ORIGIN_TEMPLATE, "");
    session_->SetForked();
  }
  return StartThreads();
}

// Opens what the VM is made of.
Result<void> Vmm::LookAround() {
  failure_ = CLEARVM_FAILURE_KERNEL;
  CLEARVM_ASSIGN(kernel_, OpenFile(options_.kernel, "ERR_KERNEL_READ"));
  if (options_.initrd.given()) {
    CLEARVM_ASSIGN(initrd_, OpenFile(options_.initrd, "ERR_INITRD"));
  }
  failure_ = CLEARVM_FAILURE_KVM;
  CLEARVM_ASSIGN(system_, kvm::System::Open());
  config_ = {options_.cpus, options_.memory, ChooseBacking(options_.backing),
             kOwnDevices + options_.exports.size(), options_.statistics};
  failure_ = CLEARVM_FAILURE_CONFIG;
  return FindTemplate();
}

Result<void> Vmm::StartThreads() {
  kernel_.reset();
  initrd_.reset();
  failure_ = CLEARVM_FAILURE_JAIL;
  if (Jailed()) {
    const bool writable = std::any_of(options_.exports.begin(), options_.exports.end(),
                                      [](const ExportOption& entry) { return !entry.read_only; });
    CLEARVM_RETURN_IF_ERROR(jail::DropPrivileges(!options_.exports.empty(), writable));
    if (!spare_) CLEARVM_RETURN_IF_ERROR(jail::InstallTrapReport());
  }
  failure_ = CLEARVM_FAILURE_DEVICE;
  if (!spare_) MakeRoomForDescriptors();
  for (auto& thread : loops_) CLEARVM_RETURN_IF_ERROR(StartLoop(*thread));
  loops_ready_.set_value();
  session_->SetBeforeExit([this] { StopFileServers(); });
  failure_ = CLEARVM_FAILURE_KVM;
  if (spare_ && template_) {
    machine_->Resume();
  } else {
    CLEARVM_RETURN_IF_ERROR(StartMachine());
  }
  if (options_.cpu_limit != 0) {
    CLEARVM_ASSIGN(cpu_limit_, CpuLimit::Create(options_.cpu_limit, options_.cpus, machine_.get(),
                                                loop_.value().get()));
  }
  failure_ = CLEARVM_FAILURE_JAIL;
  // A template's guest runs nothing but our own kernel and init, and has nobody to talk to: what
  // is needed to save it is not worth a filter.
  if (Jailed() && !Saving()) return jail::ConfineThread(jail::ThreadKind::kMain);
  return {};
}

// A table of descriptors that threads share waits for the host's RCU to grow, some 10 ms. Where the
// limit is lower, it grows then.
void Vmm::MakeRoomForDescriptors() {
  const UniqueFd last(::fcntl(system_->fd(), F_DUPFD_CLOEXEC, kDescriptors - 1));
}

Result<void> Vmm::StartMachine() {
  Session* session = session_.get();
  return machine_->Start(Confinement(), [session](VmEnd end) { session->PostEnd(std::move(end)); });
}

// The VM comes before the memory is filled: measured, it takes twice as long afterwards
// (docs/benchmarks/README.md).
Result<void> Vmm::Boot() {
  failure_ = CLEARVM_FAILURE_KVM;
  CLEARVM_ASSIGN(kvm::Vm vm, system_->CreateVm());
  failure_ = CLEARVM_FAILURE_KERNEL;
  CLEARVM_ASSIGN(GuestImage image, LoadGuest(config_, {kernel_.get(), initrd_.get(), options_.debug,
                                                       options_.command_line}));
  timeline_->Stamp(CLEARVM_TIME_KERNEL_LOADED);
  failure_ = CLEARVM_FAILURE_KVM;
  CLEARVM_ASSIGN(machine_, Machine::Create(*system_, std::move(vm), std::move(image.memory),
                                           config_, timeline_, &log_));
  return machine_->EnterKernel(image.entry);
}

Result<jail::Entered> Vmm::EnterJail() {
  jail::Plan plan = options_.jail_plan;
  if (options_.jail == JailMode::kSpawned && !spare_) {
    CLEARVM_RETURN_IF_ERROR(jail::EnterNetwork(options_.network));
  }
  if (!options_.vsock_path.empty()) plan.socket_directory = Directory(options_.vsock_path) + "/";
  return Jailed() ? jail::EnterRoot(plan, std::move(prepared_root_)) : jail::OpenUnconfined(plan);
}

Result<EventLoop*> Vmm::NewLoop(jail::ThreadKind kind) {
  CLEARVM_ASSIGN(auto loop, EventLoop::Create());
  loops_.push_back(std::make_unique<LoopThread>(
      LoopThread{kind, Confinement(), when_ready_, std::move(loop), session_.get()}));
  return loops_.back()->loop.get();
}

Result<void> Vmm::StartLoop(LoopThread& thread) {
  if (thread.thread != 0) return {};
  const int error = ::pthread_create(&thread.thread, nullptr, RunLoopThread, &thread);
  if (error == 0) return {};
  errno = error;
  return SystemError("ERR_VMM", "pthread_create", "cannot start a device thread");
}

// The guest runs on, and may ask for more: nobody hears it.
void Vmm::StopFileServers() {
  for (auto& thread : loops_) {
    if (thread->kind != jail::ThreadKind::kFs) continue;
    thread->loop->Stop();
    ::pthread_join(thread->thread, nullptr);
  }
}

int RunVmm(Options& options, Timeline* timeline) {
  ::umask(0);  // the 9p server is told exact modes by the guest
  static Vmm* vmm = nullptr;
  // Never destroyed: the process ends next, and with it the VM, at once and whatever its threads
  // are doing.
  vmm = new Vmm(options, timeline);
  return vmm->Run();
}

}  // namespace clearvm::vmm
