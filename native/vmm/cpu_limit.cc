#include "native/vmm/cpu_limit.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

namespace clearvm::vmm {
namespace {

constexpr uint64_t kMillisecond = 1'000'000;
constexpr uint64_t kSecond = 1000 * kMillisecond;
constexpr uint64_t kPeriod = 100 * kMillisecond;  // docker's and the kernel's
constexpr uint64_t kShortest = 5 * kMillisecond;  // between two looks
constexpr uint64_t kRefill = 10 * kMillisecond;   // what must have come in before they go on

uint64_t Read(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);  // cannot fail with these clocks
  return static_cast<uint64_t>(now.tv_sec) * kSecond + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace

CpuBudget::CpuBudget(uint32_t limit, uint32_t cpus)
    : limit_(limit),
      cpus_(cpus),
      most_(static_cast<int64_t>(kPeriod * limit / 1000)),
      left_(most_) {}

CpuBudget::Verdict CpuBudget::At(uint64_t now, uint64_t used) {
  // What came in during a long time is more than the bucket holds.
  const uint64_t passed = now_ == 0 ? 0 : std::min(now - now_, kSecond);
  left_ += static_cast<int64_t>(passed * limit_ / 1000) - static_cast<int64_t>(used - used_);
  left_ = std::min(left_, most_);
  now_ = now;
  used_ = used;
  // All vCPUs together empty it no sooner.
  if (left_ > 0) return {true, std::max(static_cast<uint64_t>(left_) / cpus_, kShortest)};
  return {false, kRefill + static_cast<uint64_t>(-left_) * 1000 / limit_};
}

Result<std::unique_ptr<CpuLimit>> CpuLimit::Create(uint32_t limit, uint32_t cpus, Machine* machine,
                                                   EventLoop* loop) {
  UniqueFd timer(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!timer.valid()) return SystemError("ERR_VMM", "timerfd_create", "cannot limit the VM");
  const int fd = timer.get();
  std::unique_ptr<CpuLimit> self(new CpuLimit(CpuBudget(limit, cpus), machine, std::move(timer)));
  CLEARVM_RETURN_IF_ERROR(loop->Add(fd, EPOLLIN, [limit = self.get()](uint32_t) {
    uint64_t count;
    if (::read(limit->timer_.get(), &count, sizeof count) == sizeof count) limit->Check();
  }));
  self->Check();
  return self;
}

void CpuLimit::Check() {
  const auto [run, next] = budget_.At(Read(CLOCK_MONOTONIC), Read(CLOCK_PROCESS_CPUTIME_ID));
  machine_->SetThrottled(!run);
  itimerspec when{};
  when.it_value.tv_sec = static_cast<time_t>(next / kSecond);
  when.it_value.tv_nsec = static_cast<long>(next % kSecond);
  ::timerfd_settime(timer_.get(), 0, &when, nullptr);
}

}  // namespace clearvm::vmm
