// What a VM's process does for templates and snapshots: finding, forking, taking them.
#include <signal.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "native/vmm/snapshot_file.h"
#include "native/vmm/vmm.h"

namespace clearvm::vmm {
namespace {

// For the making of a template, which takes one on an idle machine: it runs at the lowest priority.
constexpr unsigned kTemplateSeconds = 120;

}  // namespace

// From the jail on, for a VM that goes on from a snapshot: there is no other way to start it.
Result<void> Vmm::SetUpRestored(ByteReader& saved, jail::Entered entered,
                                std::unique_ptr<virtio::Vsock> vsock) {
  failure_ = CLEARVM_FAILURE_FOREIGN;
  // In the order in which they are written.
  ByteReader session(saved.TakeBytes(saved.Take<uint32_t>()));
  CLEARVM_RETURN_IF_ERROR(Fork(saved));
  CLEARVM_RETURN_IF_ERROR(AddDevices(std::move(entered), std::move(vsock)));
  failure_ = CLEARVM_FAILURE_SNAPSHOT;
  CLEARVM_RETURN_IF_ERROR(session_->Restore(session));
  if (auto restored = machine_->RestoreDevices(saved); !restored.ok()) {
    if (restored.error().code == "ERR_SNAPSHOT_FILES") failure_ = CLEARVM_FAILURE_FILES;
    return restored;
  }
  CLEARVM_RETURN_IF_ERROR(machine_->Nudge());
  machine_->StartPaused();
  session_->TellOrigin(CLEARVM_ORIGIN_TEMPLATE, "");
  session_->SetRestored();
  return StartThreads();
}

// Opens the template that is to be forked, or the place of the one that is to be made; the jail
// hides both.
Result<void> Vmm::FindTemplate() {
  host_ = DescribeHost();
  host_.memory = config_.memory;
  host_.cpus = config_.cpus;
  host_.devices = static_cast<uint32_t>(config_.devices);
  if (!options_.restore.empty()) return FindSnapshot();
  if (options_.template_path.empty() && !Saving()) return {};
  CLEARVM_ASSIGN(origin_, DescribeOrigin(kernel_.get(), initrd_.get()));
  origin_.memory = config_.memory;
  origin_.cpus = config_.cpus;
  origin_.devices = static_cast<uint32_t>(config_.devices);
  if (Saving()) return PrepareToSave();
  if (auto found = OpenCheckedTemplate(); !found.ok()) RefuseTemplate(found.error());
  return {};
}

Result<void> Vmm::FindSnapshot() {
  auto found = OpenSnapshot(options_.restore, options_.restore_checked, host_);
  if (!found.ok()) {
    failure_ = found.error().code == "ERR_SNAPSHOT_FOREIGN" ? CLEARVM_FAILURE_FOREIGN
                                                            : CLEARVM_FAILURE_SNAPSHOT;
    return std::move(found.error());
  }
  template_ = std::move(found).value();
  restoring_ = true;
  return {};
}

// The machine is paused. ERR_DEVICE_BUSY: not now.
Result<std::string> Vmm::TakeSnapshot(int file) {
  ByteWriter session;
  session_->Save(session);
  ByteWriter state;
  state.PutList(session.bytes());
  std::shared_ptr<Machine::Parked> parked;
  CLEARVM_RETURN_IF_ERROR(machine_->Save(*system_, state, &parked));
  CLEARVM_RETURN_IF_ERROR(
      WriteTemplate(file, host_, state.bytes(), machine_->memory(), kSnapshotFile));
  return "devices " + std::to_string(options_.exports.size()) + "\n";
}

Result<void> Vmm::OpenCheckedTemplate() {
  CLEARVM_ASSIGN(template_, OpenTemplate(options_.template_path, origin_));
  const std::string& cache = options_.template_cache;
  if (cache.empty()) return CheckTemplateMemory(*template_);
  hot_pages_ = HotPages::Open(cache, *template_);
  if (hot_pages_.Unknown()) {
    session_->SetOnStarted([this] { hot_pages_.Record(machine_->memory()); });
  }
  return UseCachedMemory(cache, &*template_);
}

void Vmm::RefuseTemplate(const Error& error) {
  template_.reset();
  machine_.reset();
  session_->TellOrigin(
      error.code == "ERR_TEMPLATE_MISSING" ? CLEARVM_ORIGIN_MISSING : CLEARVM_ORIGIN_REFUSED,
      error.message);
}

Result<void> Vmm::PrepareToSave() {
  // Nobody waits for it: those who run containers have the processors first.
  ::setpriority(PRIO_PROCESS, 0, 19);
  // Nor does it end with the terminal of who happened to be the first.
  ::setsid();
  config_.backing = kvm::Backing::kMemfd;  // its holes tell which memory was never touched
  CLEARVM_ASSIGN(target_, TemplateTarget::Open(options_.template_save, origin_));
  // It holds the lock for which all others wait who want a template.
  struct sigaction give_up {};
  give_up.sa_handler = [](int) {
    constexpr char kWhy[] = "clearvm-vmm: the guest did not come up in time\n";
    [[maybe_unused]] ssize_t wrote = ::write(2, kWhy, sizeof kWhy - 1);
    ::_exit(125);
  };
  ::sigaction(SIGALRM, &give_up, nullptr);
  ::alarm(kTemplateSeconds);
  session_->SetOnReady([this] {
    if (auto saved = Save(); !saved.ok()) {
      return session_->Fail(CLEARVM_FAILURE_DEVICE, 125, saved.error().message);
    }
    session_->Finish(0);
  });
  return {};
}

// What init and the kernel have still to do, they do once here and not in each fork.
Result<void> Vmm::Save() {
  constexpr int kPatience = 100;  // rounds
  constexpr timespec kRound{0, 50'000'000};
  for (int round = 0; round < kPatience; round++) {
    ::nanosleep(&kRound, nullptr);
    machine_->Pause();
    CLEARVM_ASSIGN(const bool halted, machine_->Halted());
    if (halted) {
      ByteWriter state;
      std::shared_ptr<Machine::Parked> parked;
      CLEARVM_RETURN_IF_ERROR(machine_->Save(*system_, state, &parked));
      return target_->Write(state.bytes(), machine_->memory());
    }
    machine_->Resume();
  }
  return Error{"ERR_TEMPLATE_WRITE", 0, "", "the guest does not come to rest"};
}

// All that does not depend on what the VM is for.
Result<void> Vmm::MakeFork() {
  CLEARVM_ASSIGN(kvm::Vm vm, system_->CreateVm());
  CLEARVM_ASSIGN(kvm::GuestMemory memory,
                 kvm::GuestMemory::CreateFrom(config_.memory, template_->file.get(),
                                              template_->file_size, template_->extents));
  // Other VMs are forked from it: this one, once it has a guest, has no way to the file.
  template_->file.reset();
  hot_pages_.Populate(memory);
  CLEARVM_ASSIGN(machine_, Machine::Create(*system_, std::move(vm), std::move(memory), config_,
                                           timeline_, &log_));
  return {};
}

Result<void> Vmm::Fork(ByteReader& saved) {
  if (!machine_) CLEARVM_RETURN_IF_ERROR(MakeFork());
  if (behind_processors_) {
    saved = *behind_processors_;
  } else {
    CLEARVM_RETURN_IF_ERROR(machine_->LoadProcessors(saved));
  }
  CLEARVM_RETURN_IF_ERROR(machine_->StartClocks());
  if (template_->memory != config_.memory) {
    const kvm::MemoryRegion& last = machine_->memory().regions().back();
    session_->SetMemoryEnd(last.guest_address + last.size);
  }
  return {};
}

}  // namespace clearvm::vmm
