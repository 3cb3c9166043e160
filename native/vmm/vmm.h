// One process, one VM: what is put together, and when. run.cc is the way from options to a running
// guest; run_forked.cc what templates and snapshots need of it; run_devices.cc the devices.
#ifndef CLEARVM_VMM_VMM_H_
#define CLEARVM_VMM_VMM_H_

#include <pthread.h>

#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "native/base/bytes.h"
#include "native/base/event_loop.h"
#include "native/base/fd.h"
#include "native/base/result.h"
#include "native/jail/jail.h"
#include "native/jail/seccomp.h"
#include "native/kvm/system.h"
#include "native/virtio/host_fd.h"
#include "native/virtio/vsock.h"
#include "native/vmm/cpu_limit.h"
#include "native/vmm/kernel_log.h"
#include "native/vmm/machine.h"
#include "native/vmm/options.h"
#include "native/vmm/session.h"
#include "native/vmm/template.h"
#include "native/vmm/template_cache.h"
#include "native/vmm/template_target.h"
#include "native/vmm/timeline.h"

namespace clearvm::vmm {

// An event loop with a thread of its own.
struct LoopThread {
  jail::ThreadKind kind;
  jail::Confinement confinement;
  std::shared_future<void> ready;  // when what the loop watches has been added
  std::unique_ptr<EventLoop> loop;
  Session* session;
  pthread_t thread = 0;  // 0: not started yet
};

// The parts of a VM's process. Never destroyed: RunVmm.
class Vmm {
 public:
  // `options` and `timeline` must outlive it.
  Vmm(Options& options, Timeline* timeline)
      : options_(options), timeline_(timeline), loop_(EventLoop::Create()) {}

  // Returns the process's exit status when the VM has ended, or could not be started.
  int Run();

 private:
  // The life of a VM, as one list; failure_ says what an error of each part is.
  Result<void> SetUp();
  Result<void> LookAround();
  Result<void> Boot();
  Result<jail::Entered> EnterJail();
  Result<void> StartThreads();
  void MakeRoomForDescriptors();
  Result<void> StartMachine();
  Result<EventLoop*> NewLoop(jail::ThreadKind kind);
  Result<void> StartLoop(LoopThread& thread);
  void StopFileServers();
  bool Jailed() const { return options_.jail != JailMode::kNone; }
  // Of a thread that is started now.
  jail::Confinement Confinement() const {
    return !Jailed()        ? jail::Confinement::kNone
           : options_.spare ? jail::Confinement::kAll
                            : jail::Confinement::kFilter;
  }

  Result<void> FindTemplate();
  Result<void> OpenCheckedTemplate();
  void RefuseTemplate(const Error& error);
  Result<void> MakeFork();
  Result<void> Fork(ByteReader& saved);
  Result<bool> WaitAsSpare();
  Result<void> CheckOrders() const;
  Result<void> PrepareToSave();
  Result<void> Save();
  bool Saving() const { return !options_.template_save.empty(); }
  Result<void> FindSnapshot();
  Result<void> SetUpRestored(ByteReader& saved, jail::Entered entered,
                             std::unique_ptr<virtio::Vsock> vsock);
  Result<std::string> TakeSnapshot(int file);

  Result<void> AddDevices(jail::Entered entered, std::unique_ptr<virtio::Vsock> vsock);
  Result<void> AddExports(jail::Entered entered);
  Result<void> AddIoDevices(std::unique_ptr<virtio::Vsock> vsock);
  Result<std::unique_ptr<virtio::Vsock>> MakeVsock(EventLoop* loop);
  void AddOutput(virtio::VsockOptions& vsock, uint32_t port, UniqueFd read, int fd);

  Options& options_;
  Timeline* timeline_;
  KernelLog log_;
  Result<std::unique_ptr<EventLoop>> loop_;
  std::unique_ptr<Session> session_;
  virtio::HostFd console_;  // where the kernel's log goes
  UniqueFd kernel_;
  UniqueFd initrd_;
  std::optional<kvm::System> system_;
  MachineConfig config_;
  TemplateOrigin origin_;
  TemplateOrigin host_;           // of snapshots
  bool restoring_ = false;        // template_ is a snapshot
  std::optional<Options> spare_;  // what this VMM was started with, before it was wanted
  UniqueFd prepared_root_;        // of the jail
  HotPages hot_pages_;
  std::optional<Template> template_;             // that the VM is forked from
  std::optional<ByteReader> behind_processors_;  // in its state; a spare has loaded those
  std::unique_ptr<TemplateTarget> target_;
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<CpuLimit> cpu_limit_;
  std::vector<std::unique_ptr<LoopThread>> loops_;
  EventLoop* io_loop_ = nullptr;
  EventLoop* root_loop_ = nullptr;  // a spare's, for its root
  std::promise<void> loops_ready_;
  std::shared_future<void> when_ready_ = loops_ready_.get_future();
  std::unique_ptr<Streams> streams_;
  clearvm_failure failure_ = CLEARVM_FAILURE_CONFIG;
};

}  // namespace clearvm::vmm

#endif  // CLEARVM_VMM_VMM_H_
