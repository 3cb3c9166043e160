// A VMM that is started before anybody needs it: it forks its VM, and waits to be told what for.
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "native/vmm/vmm.h"

namespace clearvm::vmm {
namespace {

Error OrdersError(const char* what) {
  return Error{"ERR_VMM_OPTION", 0, "", std::string("a spare's orders: ") + what};
}

struct Orders {
  std::vector<UniqueFd> fds;
  std::vector<uint8_t> payload;
};

// One frame, and not a byte of the next. nullopt: there is nobody any more who could send one.
Result<std::optional<Orders>> Receive(int socket) {
  Orders orders;
  clearvm_frame header;
  alignas(cmsghdr) std::array<uint8_t, CMSG_SPACE(CLEARVM_BECOME_FDS_MAX * sizeof(int))> control;
  iovec part{&header, sizeof header};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t got;
  do got = ::recvmsg(socket, &message, MSG_WAITALL | MSG_CMSG_CLOEXEC);
  while (got < 0 && errno == EINTR);
  if (got <= 0) return std::optional<Orders>();
  for (cmsghdr* entry = CMSG_FIRSTHDR(&message); entry != nullptr;
       entry = CMSG_NXTHDR(&message, entry)) {
    if (entry->cmsg_level != SOL_SOCKET || entry->cmsg_type != SCM_RIGHTS) continue;
    for (size_t at = CMSG_LEN(0); at + sizeof(int) <= entry->cmsg_len; at += sizeof(int)) {
      int fd;
      std::memcpy(&fd, reinterpret_cast<const uint8_t*>(entry) + at, sizeof fd);
      orders.fds.emplace_back(fd);
    }
  }
  if (got != sizeof header || header.type != CLEARVM_CONTROL_BECOME ||
      header.length > CLEARVM_FRAME_MAX) {
    return OrdersError("another frame");
  }
  orders.payload.resize(header.length);
  if (::recv(socket, orders.payload.data(), orders.payload.size(), MSG_WAITALL) !=
      static_cast<ssize_t>(orders.payload.size())) {
    return OrdersError("they are cut short");
  }
  return std::optional(std::move(orders));
}

// Gives each its number, which stands for /dev/null so far.
Result<void> Rename(const clearvm_become& become, std::vector<UniqueFd> fds, int control) {
  if (become.count != fds.size() || become.count > CLEARVM_BECOME_FDS_MAX) {
    return OrdersError("another number of descriptors");
  }
  for (size_t i = 0; i < fds.size(); i++) {
    const int number = static_cast<int>(become.numbers[i]);
    if (number <= STDERR_FILENO || number == control || ::fcntl(number, F_GETFD) < 0) {
      return OrdersError("a descriptor with a number that it cannot have");
    }
    if (::dup3(fds[i].get(), number, O_CLOEXEC) < 0) {
      return SystemError("ERR_VMM_OPTION", "dup3", "a spare's orders: a descriptor");
    }
  }
  return {};
}

}  // namespace

// Whether it is wanted: then options_ are those of its VM.
Result<bool> Vmm::WaitAsSpare() {
  CLEARVM_RETURN_IF_ERROR(LookAround());
  if (!template_) return false;  // it has said why
  CLEARVM_RETURN_IF_ERROR(MakeFork());
  // What is refused is refused again, and told to whom it matters, when the VM is wanted.
  ByteReader saved(template_->state);
  if (machine_->LoadProcessors(saved).ok()) behind_processors_ = saved;
  if (Jailed()) {
    if (options_.jail == JailMode::kSpawned) {
      CLEARVM_RETURN_IF_ERROR(jail::EnterNetwork(options_.network));
    }
    CLEARVM_ASSIGN(prepared_root_, jail::PrepareRoot());
    CLEARVM_RETURN_IF_ERROR(jail::InstallTrapReport());
  }
  MakeRoomForDescriptors();
  CLEARVM_ASSIGN(io_loop_, NewLoop(jail::ThreadKind::kIo));
  CLEARVM_RETURN_IF_ERROR(StartLoop(*loops_.back()));
  CLEARVM_ASSIGN(root_loop_, NewLoop(jail::ThreadKind::kFs));
  CLEARVM_RETURN_IF_ERROR(StartLoop(*loops_.back()));
  machine_->StartPaused();
  CLEARVM_RETURN_IF_ERROR(StartMachine());
  // Whoever looks for containers' VMMs does not mean this one yet.
  ::prctl(PR_SET_NAME, "clearvm-spare");
  CLEARVM_ASSIGN(auto orders, Receive(options_.control_fd));
  if (!orders) return false;
  ::prctl(PR_SET_NAME, "clearvm-vmm");
  timeline_->Reset();
  timeline_->Stamp(CLEARVM_TIME_VMM_START);

  ByteReader in(orders->payload);
  const auto become = in.Take<clearvm_become>();
  if (!in.ok() || orders->payload.back() != 0) return OrdersError("they are cut short");
  CLEARVM_RETURN_IF_ERROR(Rename(become, std::move(orders->fds), options_.control_fd));
  std::vector<char*> arguments{const_cast<char*>("clearvm-vmm")};
  auto* end = reinterpret_cast<char*>(orders->payload.data() + orders->payload.size());
  for (char* at = reinterpret_cast<char*>(orders->payload.data() + sizeof become); at < end;
       at += std::strlen(at) + 1) {
    arguments.push_back(at);
  }
  arguments.push_back(nullptr);
  CLEARVM_ASSIGN(Options wanted,
                 ParseOptions(static_cast<int>(arguments.size() - 1), arguments.data()));
  spare_ = std::exchange(options_, std::move(wanted));
  return true;
}

// What was forked is to be what is asked for.
Result<void> Vmm::CheckOrders() const {
  const bool same = options_.template_path == spare_->template_path &&
                    options_.cpus == spare_->cpus && options_.memory == spare_->memory &&
                    options_.backing == spare_->backing && options_.jail == spare_->jail &&
                    options_.exports.size() == spare_->exports.size() &&
                    !options_.exports.empty() && !options_.spare && !options_.statistics &&
                    // Of threads that run already.
                    options_.cpuset.empty() && options_.vsock_path.empty() &&
                    options_.exports[0].overlay && !options_.exports[0].read_only;
  if (!same) return OrdersError("they are for another VM than was made");
  return {};
}

}  // namespace clearvm::vmm
