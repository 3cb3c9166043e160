// Bounds how long this thread can stay in a guest.
#ifndef CLEARVM_KVM_WATCHDOG_H_
#define CLEARVM_KVM_WATCHDOG_H_

#include <signal.h>
#include <time.h>

#include <memory>

#include "native/base/result.h"

namespace clearvm::kvm {

// While it lives, Vcpu::Run on the thread that created it returns kInterrupted at least every few
// tens of milliseconds, so that the caller can look at the clock. It does so by a signal,
// SIGRTMIN+1, to this one thread; where that has no handler yet, an empty one is installed, and
// stays.
class Watchdog {
 public:
  // Errors: ERR_KVM_WATCHDOG.
  static Result<std::unique_ptr<Watchdog>> Start();
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  Watchdog(timer_t timer, const sigset_t& old_mask) : timer_(timer), old_mask_(old_mask) {}

  timer_t timer_;
  sigset_t old_mask_;
};

}  // namespace clearvm::kvm

#endif  // CLEARVM_KVM_WATCHDOG_H_
