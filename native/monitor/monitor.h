// The monitor of one container: keeps its log and state, starts it again, and hears who wants
// something of it. docs/decisions/monitor.md.
#ifndef CLEARVM_MONITOR_MONITOR_H_
#define CLEARVM_MONITOR_MONITOR_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "native/base/event_loop.h"
#include "native/base/fd.h"
#include "native/monitor/client.h"
#include "native/monitor/health.h"
#include "native/monitor/json_log.h"
#include "native/monitor/request.h"
#include "native/monitor/restart.h"
#include "native/monitor/state_file.h"
#include "native/monitor/vm_run.h"

namespace clearvm::monitor {

// Descriptors that the monitor is started with.
struct Places {
  UniqueFd data;     // the container's directory, with log and state
  UniqueFd runtime;  // its runtime directory, with the start request, the lock and the sockets
  UniqueFd report;   // where the start's outcome goes; invalid: nowhere
  UniqueFd client;   // a connected client that is there before the start; invalid: none
};

class Monitor {
 public:
  explicit Monitor(Places places) : places_(std::move(places)) {}

  // Runs the container to its end for good. Returns the process's exit status. What goes wrong
  // before the first start is told on the report pipe.
  int Run();

 private:
  Result<void> SetUp();
  Result<void> Lock();
  Result<void> ReadRequest();
  // Where a socket is to be made in the runtime directory; nothing is there.
  std::string PathOf(const char* name) const;
  Result<void> Listen();
  Result<void> HandleSignals();
  Result<void> MakeTimers();

  // The VM.
  void StartVm();
  void OnStarted();
  void OnRunEnd(const RunEnd& end);
  void AfterRun(const RunEnd& end);
  void Finish();
  void OnOutput(int stream, std::span<const uint8_t> bytes);
  void Report(uint16_t type, std::span<const uint8_t> payload);
  void ReportError(const Error& error);
  void Save();
  // Notes an event; `more`: members of its attributes, each with a comma in front.
  void Note(std::string_view action, std::string_view more = {});
  void CheckHealth();

  // Clients.
  void Accept();
  Result<std::shared_ptr<Client>> AddClient(UniqueFd socket);
  void OnFrame(Client& client, const clearvm_frame& frame, std::span<const uint8_t> payload);
  void OnClose(Client& client);
  void OnDrained();
  void TellExit(const RunEnd& end);
  void Attach(Client& client, uint32_t request, uint32_t flags);
  void TakeStdin(Client& client, std::span<const uint8_t> bytes);
  void EndStdin(Client& client);
  // Whether output may be read: nobody whom it waits for is behind.
  void UpdateReading();

  // Ends the container: the signal now, and the plug `seconds` later.
  void Stop(uint32_t signal, uint32_t seconds);
  void Kill(Client& client, uint32_t request, uint32_t signal, bool for_good);
  void CancelRestart();

  Places places_;
  UniqueFd lock_;
  Request request_;
  std::unique_ptr<EventLoop> loop_;
  UniqueFd listener_;
  UniqueFd signals_;
  UniqueFd restart_timer_;
  UniqueFd stop_timer_;
  UniqueFd save_timer_;
  std::optional<JsonLog> log_;
  std::unique_ptr<VmRun> run_;
  std::unique_ptr<Health> health_;
  Restarts restarts_;
  State state_;
  bool stopped_ = false;  // by the user: not to be restarted
  bool ever_started_ = false;
  bool unsaved_ = false;  // the state on the disk is an older one
  RunEnd last_;
  std::chrono::steady_clock::time_point started_at_;
  std::vector<std::shared_ptr<Client>> clients_;
  // Signals that have been passed on, and who is to hear of it.
  struct Forwarded {
    uint32_t number;  // of our request
    std::weak_ptr<Client> client;
    uint32_t request;  // of the client's
  };
  std::vector<Forwarded> forwarded_;
  uint32_t last_request_ = 0;
};

}  // namespace clearvm::monitor

#endif  // CLEARVM_MONITOR_MONITOR_H_
