// The processes that run beside the container's first one: EXEC of protocol/control.h, and what
// becomes of it.
#ifndef CLEARVM_VMM_EXECS_H_
#define CLEARVM_VMM_EXECS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <string_view>

#include "native/base/bytes.h"
#include "native/base/fd.h"
#include "native/base/result.h"
#include "native/protocol/control.h"
#include "native/virtio/vsock.h"
#include "native/vmm/frame_channel.h"

namespace clearvm::vmm {

// What carries the processes' standard streams: ports of agent.h.
class Streams {
 public:
  virtual ~Streams() = default;
  // `in` and `out`: -1 (as an invalid UniqueFd) for none. Errors: a descriptor that cannot be used.
  virtual Result<void> Open(uint32_t port, UniqueFd in, UniqueFd out) = 0;
  virtual void Change(uint32_t port, virtio::Vsock::PortChange change) = 0;
};

// Lives on the main loop's thread.
class Execs {
 public:
  using SendToAgent =
      std::function<void(uint16_t type, uint32_t process, std::span<const uint8_t> payload)>;
  // What is wrong with a request: an errno (0: nothing) and a sentence.
  struct Refusal {
    int error = 0;
    std::string_view text;
  };

  Execs(Streams* streams, SendToAgent send) : streams_(streams), send_(std::move(send)) {}

  // `payload`: of the client's EXEC number `request`, whose descriptors lie in its channel, and are
  // taken from there in any case. `obstacle`: why it cannot be now.
  Refusal Start(FrameChannel* client, uint32_t request, std::span<const uint8_t> payload,
                const Refusal& obstacle);
  // The process of a client's EXEC, where it runs; else 0.
  uint32_t Running(const FrameChannel* client, uint32_t request) const;
  Refusal Detach(const FrameChannel* client, uint32_t request);
  // `client` is not to be told of anything any more.
  void Forget(const FrameChannel* client);

  // A frame of init's about a process other than the first. False: it makes no sense.
  bool OnAgentFrame(const clearvm_frame& frame, std::span<const uint8_t> payload);
  // For snapshots: which processes there are. Where they go on, nobody is there who has started
  // them; they run on like those of a client that has gone away, but their terminals hang up only
  // when HangUp is called. Errors: ERR_SESSION_STATE.
  void Save(ByteWriter& out) const;
  Result<void> Restore(ByteReader& in);
  void HangUp();

  // Whether the port is a process's of these, all of whose output there has been written out.
  void OnDrained(uint32_t port);

 private:
  enum class State : uint8_t { kStarting, kRunning, kExited };
  struct Exec {
    FrameChannel* client;
    uint32_t request;
    bool terminal;
    State state = State::kStarting;
    std::set<uint32_t> undrained = {};  // ports
    uint32_t exit[2] = {};              // code, signal
  };
  using Entry = std::map<uint32_t, Exec>::iterator;

  Result<void> OpenStreams(uint32_t number, Exec& exec, std::vector<UniqueFd> fds);
  void ChangeAll(uint32_t number, virtio::Vsock::PortChange change);
  std::map<uint32_t, Exec>::const_iterator Find(const FrameChannel* client, uint32_t request) const;
  void TellFailure(Entry entry, std::span<const uint8_t> payload);
  void TellExitWhenDrained(Entry entry);

  Streams* const streams_;
  const SendToAgent send_;
  std::map<uint32_t, Exec> execs_;  // by the number that init knows
  uint32_t last_ = 0;
};

}  // namespace clearvm::vmm

#endif  // CLEARVM_VMM_EXECS_H_
