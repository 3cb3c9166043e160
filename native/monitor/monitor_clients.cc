// What clients of the monitor's socket ask for.
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "native/monitor/monitor.h"

namespace clearvm::monitor {
namespace {

constexpr size_t kMostClients = 64;
constexpr size_t kMostStdin = 256 * 1024;  // bytes that wait for the command to read them

// One after the other of `count` little-endian integers; false where the payload has another size.
bool TakeNumbers(std::span<const uint8_t> payload, uint32_t* numbers, size_t count) {
  if (payload.size() != count * sizeof *numbers) return false;
  std::memcpy(numbers, payload.data(), payload.size());
  return true;
}

}  // namespace

void Monitor::Accept() {
  UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  // One too many is closed at once.
  if (socket.valid() && clients_.size() < kMostClients) (void)AddClient(std::move(socket));
}

Result<std::shared_ptr<Client>> Monitor::AddClient(UniqueFd socket) {
  Client::Handlers handlers;
  handlers.on_frame = [this](Client& client, const clearvm_frame& frame,
                             std::span<const uint8_t> payload) { OnFrame(client, frame, payload); };
  handlers.on_close = [this](Client& client) { OnClose(client); };
  handlers.on_drained = [this](Client&) { UpdateReading(); };
  CLEARVM_ASSIGN(auto client, Client::Create(std::move(socket), loop_.get(), std::move(handlers)));
  clients_.push_back(client);
  return client;
}

void Monitor::OnFrame(Client& client, const clearvm_frame& frame,
                      std::span<const uint8_t> payload) {
  const uint32_t request = frame.process;
  uint32_t numbers[2];
  switch (frame.type) {
    case CLEARVM_MONITOR_DO_STOP:
      if (!TakeNumbers(payload, numbers, 2)) break;
      client.stops.push_back(request);
      return Stop(numbers[0], numbers[1]);
    case CLEARVM_MONITOR_DO_KILL:
      if (!TakeNumbers(payload, numbers, 2)) break;
      return Kill(client, request, numbers[0], numbers[1] != 0);
    case CLEARVM_MONITOR_DO_WAIT:
      client.waits = true;
      return;
    case CLEARVM_MONITOR_DO_ATTACH:
      if (!TakeNumbers(payload, numbers, 1)) break;
      return Attach(client, request, numbers[0]);
    case CLEARVM_MONITOR_STDIN:
      return TakeStdin(client, payload);
    case CLEARVM_MONITOR_STDIN_END:
      return EndStdin(client);
    case CLEARVM_MONITOR_DO_RESIZE:
      if (payload.size() != 4) break;
      if (run_) run_->Resize(0, payload);
      return client.Reply(request, 0, "");
    case CLEARVM_MONITOR_DO_UPDATE:
      if (auto policy = ParseRestartPolicy(payload); policy.ok()) {
        request_.restart = policy.value();
        return client.Reply(request, 0, "");
      }
      break;
    default:
      return client.Reply(request, ENOSYS, "an unknown request");
  }
  client.Reply(request, EINVAL, "a payload of the wrong size");
}

void Monitor::Attach(Client& client, uint32_t request, uint32_t flags) {
  client.attached = flags;
  client.Reply(request, 0, "");
}

void Monitor::TakeStdin(Client& client, std::span<const uint8_t> bytes) {
  if ((client.attached & CLEARVM_ATTACH_STDIN) == 0 || !run_) return;
  run_->WriteStdin(bytes);
  if (run_->stdin_queued() > kMostStdin) client.SetReading(false);
}

void Monitor::EndStdin(Client& client) {
  if ((client.attached & CLEARVM_ATTACH_STDIN) == 0) return;
  client.attached &= ~CLEARVM_ATTACH_STDIN;
  if (run_ && (request_.stdio & CLEARVM_STDIO_STDIN_ONCE) != 0) run_->CloseStdin();
}

void Monitor::OnDrained() {
  for (const auto& client : clients_) client->SetReading(true);
}

void Monitor::OnClose(Client& client) {
  EndStdin(client);
  const auto found = std::find_if(clients_.begin(), clients_.end(),
                                  [&client](const auto& each) { return each.get() == &client; });
  if (found == clients_.end()) return;
  // It is still on the stack of whoever calls this.
  auto gone = std::move(*found);
  clients_.erase(found);
  loop_->Post([gone] {});
  UpdateReading();
}

void Monitor::TellExit(const RunEnd& end) {
  const uint32_t payload[2] = {static_cast<uint32_t>(end.exit_code), end.signal};
  for (const auto& client : std::vector(clients_)) {
    if (!client->waits && client->attached == 0) continue;
    client->Send(CLEARVM_MONITOR_EXITED, 0, vmm::BytesOf(payload));
    client->waits = false;
    client->attached = 0;
  }
}

}  // namespace clearvm::monitor
