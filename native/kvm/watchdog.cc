#include "native/kvm/watchdog.h"

#include <sys/syscall.h>
#include <unistd.h>

namespace clearvm::kvm {
namespace {

constexpr long kIntervalNanoseconds = 20'000'000;

int WatchdogSignal() { return SIGRTMIN + 1; }

Error WatchdogError(const char* syscall) {
  return SystemError("ERR_KVM_WATCHDOG", syscall, "cannot bound the run time of a vCPU");
}

}  // namespace

Result<std::unique_ptr<Watchdog>> Watchdog::Start() {
  struct sigaction present = {};
  if (::sigaction(WatchdogSignal(), nullptr, &present) != 0) return WatchdogError("sigaction");
  if (present.sa_handler == SIG_DFL || present.sa_handler == SIG_IGN) {
    struct sigaction action = {};
    action.sa_handler = [](int) {};  // its arrival is what ends KVM_RUN
    if (::sigaction(WatchdogSignal(), &action, nullptr) != 0) return WatchdogError("sigaction");
  }
  sigset_t unblock;
  sigset_t old_mask;
  ::sigemptyset(&unblock);
  ::sigaddset(&unblock, WatchdogSignal());
  ::pthread_sigmask(SIG_UNBLOCK, &unblock, &old_mask);

  struct sigevent event = {};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = WatchdogSignal();
  event._sigev_un._tid = static_cast<pid_t>(::syscall(SYS_gettid));
  timer_t timer;
  if (::timer_create(CLOCK_MONOTONIC, &event, &timer) != 0) {
    Error error = WatchdogError("timer_create");
    ::pthread_sigmask(SIG_SETMASK, &old_mask, nullptr);
    return error;
  }
  std::unique_ptr<Watchdog> watchdog(new Watchdog(timer, old_mask));
  // Periodic: a single signal might come just before KVM_RUN, and be lost.
  struct itimerspec interval = {};
  interval.it_value.tv_nsec = kIntervalNanoseconds;
  interval.it_interval.tv_nsec = kIntervalNanoseconds;
  if (::timer_settime(timer, 0, &interval, nullptr) != 0) return WatchdogError("timer_settime");
  return watchdog;
}

Watchdog::~Watchdog() {
  ::timer_delete(timer_);
  ::pthread_sigmask(SIG_SETMASK, &old_mask_, nullptr);
}

}  // namespace clearvm::kvm
