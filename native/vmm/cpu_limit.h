// How much processor time a VM gets: --cpus with a fraction.

#ifndef CLEARVM_NATIVE_VMM_CPU_LIMIT_H_
#define CLEARVM_NATIVE_VMM_CPU_LIMIT_H_

#include <cstdint>
#include <memory>

#include "native/base/event_loop.h"
#include "native/base/fd.h"
#include "native/base/result.h"
#include "native/vmm/machine.h"

namespace clearvm::vmm {

// Processor time as in a bucket: it fills with time, up to what a period of 100 ms brings, and what
// is used is taken out. Times are nanoseconds.
class CpuBudget {
 public:
  // `limit`: thousandths of a processor, at least 1; `cpus`: vCPUs, at least 1.
  CpuBudget(uint32_t limit, uint32_t cpus);

  struct Verdict {
    bool run;       // whether the vCPUs may
    uint64_t next;  // from now, when to ask again
  };
  // At a time of CLOCK_MONOTONIC, when so much has been used in all. Neither goes back.
  Verdict At(uint64_t now, uint64_t used);

 private:
  uint64_t limit_;
  uint64_t cpus_;
  int64_t most_;
  int64_t left_;
  uint64_t now_ = 0;
  uint64_t used_ = 0;
};

// Keeps this process to a limit, by stopping the vCPUs of its machine while it has none left: the
// work of its other threads is the guest's doing, too, and counts. `loop` is its thread's.
class CpuLimit {
 public:
  // `limit` as of CpuBudget; `machine` and `loop` must outlive it. Errors: ERR_VMM.
  static Result<std::unique_ptr<CpuLimit>> Create(uint32_t limit, uint32_t cpus, Machine* machine,
                                                  EventLoop* loop);

 private:
  CpuLimit(CpuBudget budget, Machine* machine, UniqueFd timer)
      : budget_(budget), machine_(machine), timer_(std::move(timer)) {}
  void Check();

  CpuBudget budget_;
  Machine* machine_;
  UniqueFd timer_;
};

}  // namespace clearvm::vmm

#endif  // CLEARVM_NATIVE_VMM_CPU_LIMIT_H_
