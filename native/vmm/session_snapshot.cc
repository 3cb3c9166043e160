// A session's part in snapshots: the way to the point at which one is taken, and the way on from
// there.
#include <poll.h>
#include <sys/random.h>

#include <cerrno>

#include "native/vmm/session.h"

namespace clearvm::vmm {
namespace {

// What was asked for before the guest was stopped is served within that time, or there is no
// snapshot: nobody is served meanwhile.
constexpr int kPatience = 100;  // rounds
constexpr int kRound = 10;      // ms

int ErrnoOf(const Error& error) {
  if (error.code == "ERR_SNAPSHOT_FILES") return EOPNOTSUPP;
  if (error.code == "ERR_DEVICE_BUSY") return EAGAIN;
  return error.sys_errno != 0 ? error.sys_errno : EIO;
}

}  // namespace

void Session::StartSnapshot(FrameChannel* from, uint32_t request) {
  std::vector<UniqueFd> file = from->TakeFds(1);
  Answer obstacle;
  if (file.empty()) {
    obstacle = {EINVAL, "the file for it is missing"};
  } else if (!started_ || exited_ || !take_snapshot_) {
    obstacle = {ESRCH, "the container does not run"};
  } else if (paused_) {
    obstacle = {EBUSY, "the container is paused"};
  } else if (snapshot_) {
    obstacle = {EAGAIN, "a snapshot is being made of it: try again"};
  }
  if (obstacle.error != 0) return Reply(from, request, obstacle);
  snapshot_ = Snapshot{from, request, std::move(file[0])};
  machine_->ArmPoint([this] { loop_->Post([this] { OnPoint(); }); });
  agent_->Send(CLEARVM_AGENT_SNAPSHOT, 0, {});
}

void Session::OnPoint() {
  if (!snapshot_) return machine_->DisarmPoint();
  if (exited_ || finished_) return;
  machine_->Pause();
  paused_ = true;
  snapshot_->held = true;
  const auto taken = FillSnapshot();
  if (!snapshot_) return;
  FrameChannel* client = snapshot_->client;
  const uint32_t request = snapshot_->request;
  if (!taken.ok()) {
    EndSnapshot();
    return Reply(client, request, {ErrnoOf(taken.error()), taken.error().message});
  }
  Reply(client, request, {0, taken.value()});
}

Result<std::string> Session::FillSnapshot() {
  for (int round = 0;; round++) {
    agent_->ReadAll();
    Result<std::string> taken = agent_->idle()
                                    ? take_snapshot_(snapshot_->file.get())
                                    : Error{"ERR_DEVICE_BUSY", 0, "", "init has something to read"};
    if (taken.ok() || taken.error().code != "ERR_DEVICE_BUSY" || round == kPatience) return taken;
    ::poll(nullptr, 0, kRound);
  }
}

// The VM goes on, as if nothing had been.
void Session::EndSnapshot() {
  const bool held = snapshot_->held;
  snapshot_.reset();
  if (!held) return machine_->DisarmPoint();
  machine_->SetRenewal({}, {});
  machine_->Resume();
  paused_ = false;
}

void Session::SetRestored() {
  restored_ = true;
  agent_ready_ = true;
  SendSpec();
}

void Session::RenewRestored() {
  clearvm_renewal renewal{};
  renewal.flags = CLEARVM_RENEWAL_OTHER;
  renewal.spec_length = static_cast<uint32_t>(spec_.size());
  auto& seed = renewal.identity.seed;
  if (::getrandom(seed, sizeof seed, 0) != sizeof seed) {
    return Fail(CLEARVM_FAILURE_DEVICE, 125, "the host has no random numbers for the guest");
  }
  machine_->SetRenewal(renewal, spec_);
  spec_.clear();
  machine_->Resume();
}

void Session::Save(ByteWriter& out) const {
  out.Put(static_cast<uint32_t>(CLEARVM_AGENT_VERSION));
  if (execs_) execs_->Save(out);
}

Result<void> Session::Restore(ByteReader& in) {
  if (in.Take<uint32_t>() != CLEARVM_AGENT_VERSION) {
    return Error{"ERR_SESSION_STATE", 0, "", "the saved session: its init speaks another version"};
  }
  if (!execs_) return Error{"ERR_SESSION_STATE", 0, "", "a snapshot needs a listening socket"};
  return execs_->Restore(in);
}

}  // namespace clearvm::vmm
