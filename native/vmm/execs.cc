#include "native/vmm/execs.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "native/vmm/text.h"

namespace clearvm::vmm {
namespace {

using PortChange = virtio::Vsock::PortChange;

struct SavedExec {
  uint32_t number;
  uint8_t running;
  uint8_t terminal;
  uint8_t zero[2];
};

constexpr uint32_t PortOf(uint32_t number, uint32_t port) {
  return port + number * CLEARVM_PORTS_PER_PROCESS;
}

}  // namespace

Execs::Refusal Execs::Start(FrameChannel* client, uint32_t request,
                            std::span<const uint8_t> payload, const Refusal& obstacle) {
  clearvm_exec header;
  if (payload.size() < sizeof header) return {EINVAL, "a payload of the wrong size"};
  std::memcpy(&header, payload.data(), sizeof header);
  const bool terminal = (header.flags & CLEARVM_EXEC_TERMINAL) != 0;
  std::vector<UniqueFd> fds = client->TakeFds(terminal ? 2 : 3);
  if (fds.empty()) return {EINVAL, "its standard streams are missing"};
  if (obstacle.error != 0) return obstacle;
  if ((header.flags & ~CLEARVM_EXEC_TERMINAL) != 0 || header.reserved != 0) {
    return {EINVAL, "unknown flags"};
  }
  if (Find(client, request) != execs_.end()) return {EEXIST, "the number is in use"};
  if (execs_.size() >= CLEARVM_EXECS_MAX) {
    return {EAGAIN, "too many processes have been started in this container: try again"};
  }
  do last_ = last_ % CLEARVM_PROCESS_MAX + 1;
  while (execs_.contains(last_));
  Exec& exec = execs_[last_] = {client, request, terminal};
  if (!OpenStreams(last_, exec, std::move(fds)).ok()) {
    ChangeAll(last_, PortChange::kReset);
    execs_.erase(last_);
    return {EBADF, "a descriptor cannot be used as a standard stream"};
  }
  send_(CLEARVM_AGENT_EXEC, last_, payload.subspan(sizeof header));
  return {};
}

Result<void> Execs::OpenStreams(uint32_t number, Exec& exec, std::vector<UniqueFd> fds) {
  const uint32_t out = PortOf(number, CLEARVM_PORT_STDOUT);
  exec.undrained.insert(out);
  if (exec.terminal) return streams_->Open(out, std::move(fds[0]), std::move(fds[1]));
  const uint32_t err = PortOf(number, CLEARVM_PORT_STDERR);
  exec.undrained.insert(err);
  CLEARVM_RETURN_IF_ERROR(
      streams_->Open(PortOf(number, CLEARVM_PORT_STDIN), std::move(fds[0]), UniqueFd()));
  CLEARVM_RETURN_IF_ERROR(streams_->Open(out, UniqueFd(), std::move(fds[1])));
  return streams_->Open(err, UniqueFd(), std::move(fds[2]));
}

void Execs::ChangeAll(uint32_t number, PortChange change) {
  for (uint32_t port : {CLEARVM_PORT_STDIN, CLEARVM_PORT_STDOUT, CLEARVM_PORT_STDERR}) {
    streams_->Change(PortOf(number, port), change);
  }
}

std::map<uint32_t, Execs::Exec>::const_iterator Execs::Find(const FrameChannel* client,
                                                            uint32_t request) const {
  return std::find_if(execs_.begin(), execs_.end(), [&](const auto& entry) {
    return entry.second.client == client && entry.second.request == request;
  });
}

uint32_t Execs::Running(const FrameChannel* client, uint32_t request) const {
  const auto found = Find(client, request);
  return found == execs_.end() || found->second.state != State::kRunning ? 0 : found->first;
}

Execs::Refusal Execs::Detach(const FrameChannel* client, uint32_t request) {
  const auto found = Find(client, request);
  if (found == execs_.end()) return {ESRCH, "there is no such process"};
  const auto entry = execs_.find(found->first);
  entry->second.client = nullptr;
  entry->second.undrained.clear();
  ChangeAll(entry->first, PortChange::kDiscard);
  TellExitWhenDrained(entry);
  return {};
}

void Execs::Forget(const FrameChannel* client) {
  for (auto& [number, exec] : execs_) {
    if (exec.client != client) continue;
    exec.client = nullptr;
    if (!exec.terminal) continue;
    ChangeAll(number, PortChange::kReset);
    if (exec.state != State::kExited) send_(CLEARVM_AGENT_HANGUP, number, {});
  }
}

bool Execs::OnAgentFrame(const clearvm_frame& frame, std::span<const uint8_t> payload) {
  const auto entry = execs_.find(frame.process);
  if (entry == execs_.end()) return false;
  Exec& exec = entry->second;
  switch (frame.type) {
    case CLEARVM_AGENT_STARTED:
      if (exec.state != State::kStarting || !payload.empty()) return false;
      exec.state = State::kRunning;
      if (exec.client != nullptr) exec.client->Send(CLEARVM_CONTROL_STARTED, exec.request, {});
      return true;
    case CLEARVM_AGENT_ERROR:
      if (exec.state != State::kStarting || payload.size() < sizeof(uint32_t)) return false;
      TellFailure(entry, payload);
      return true;
    case CLEARVM_AGENT_EXIT:
      if (exec.state != State::kRunning || payload.size() != sizeof exec.exit) return false;
      std::memcpy(exec.exit, payload.data(), sizeof exec.exit);
      exec.exit[0] &= 0xff;
      exec.exit[1] &= 0x7f;
      exec.state = State::kExited;
      // A port that init has not connected to has nothing to drain.
      ChangeAll(frame.process, PortChange::kRelease);
      TellExitWhenDrained(entry);
      return true;
    default:
      return false;
  }
}

void Execs::TellFailure(Entry entry, std::span<const uint8_t> payload) {
  uint32_t code;
  std::memcpy(&code, payload.data(), sizeof code);
  if (code < 125 || code > 127) code = 126;
  const std::string text = Printable(payload.subspan(sizeof code));
  const uint32_t number = entry->first;
  FrameChannel* client = entry->second.client;
  const uint32_t request = entry->second.request;
  execs_.erase(entry);
  ChangeAll(number, PortChange::kReset);
  if (client == nullptr) return;
  std::vector<uint8_t> failure;
  for (const uint32_t value :
       {static_cast<uint32_t>(CLEARVM_FAILURE_PROCESS), code, static_cast<uint32_t>(text.size())}) {
    Append(failure, BytesOf(value));
  }
  Append(failure, BytesOf(std::string_view(text)));
  client->Send(CLEARVM_CONTROL_FAILURE, request, failure);
}

void Execs::Save(ByteWriter& out) const {
  std::vector<SavedExec> saved;
  for (const auto& [number, exec] : execs_) {
    // Of those that have ended init says nothing more.
    if (exec.state == State::kExited) continue;
    saved.push_back({number, exec.state == State::kRunning, exec.terminal, {}});
  }
  out.Put(last_);
  out.PutList(std::span<const SavedExec>(saved));
}

Result<void> Execs::Restore(ByteReader& in) {
  last_ = std::min<uint32_t>(in.Take<uint32_t>(), CLEARVM_PROCESS_MAX);
  for (const SavedExec& saved : in.TakeList<SavedExec>(CLEARVM_EXECS_MAX)) {
    if (saved.number == 0 || saved.number > CLEARVM_PROCESS_MAX || execs_.contains(saved.number)) {
      return Error{"ERR_SESSION_STATE", 0, "", "the saved session: a process twice"};
    }
    execs_[saved.number] = {nullptr, 0, saved.terminal != 0,
                            saved.running != 0 ? State::kRunning : State::kStarting};
  }
  return {};
}

void Execs::HangUp() {
  for (auto& [number, exec] : execs_) {
    if (exec.client != nullptr || !exec.terminal) continue;
    ChangeAll(number, PortChange::kReset);
    send_(CLEARVM_AGENT_HANGUP, number, {});
  }
}

void Execs::OnDrained(uint32_t port) {
  if (port < PortOf(1, CLEARVM_PORT_STDIN)) return;
  const auto entry = execs_.find((port - CLEARVM_PORT_STDIN) / CLEARVM_PORTS_PER_PROCESS);
  if (entry == execs_.end()) return;
  entry->second.undrained.erase(port);
  TellExitWhenDrained(entry);
}

void Execs::TellExitWhenDrained(Entry entry) {
  const Exec& exec = entry->second;
  if (exec.state != State::kExited || !exec.undrained.empty()) return;
  if (exec.client != nullptr)
    exec.client->Send(CLEARVM_CONTROL_EXIT, exec.request, BytesOf(exec.exit));
  execs_.erase(entry);
}

}  // namespace clearvm::vmm
