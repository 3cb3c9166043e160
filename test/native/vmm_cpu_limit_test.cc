#include <gtest/gtest.h>

#include <algorithm>

#include "native/vmm/cpu_limit.h"

namespace clearvm::vmm {
namespace {

constexpr uint64_t kMillisecond = 1'000'000;

struct Ran {
  uint64_t used = 0;     // nanoseconds
  uint64_t longest = 0;  // without a stop
  uint64_t looks = 0;
};

// A guest that keeps `busy` of its vCPUs busy for so long whenever it may run.
Ran Simulate(CpuBudget& budget, uint64_t busy, uint64_t milliseconds, uint64_t now = kMillisecond) {
  Ran ran;
  uint64_t stretch = 0;
  for (const uint64_t end = now + milliseconds * kMillisecond; now < end; ran.looks++) {
    const auto [run, next] = budget.At(now, ran.used);
    now += next;
    stretch = run ? stretch + next : 0;
    if (run) ran.used += busy * next;
    ran.longest = std::max(ran.longest, stretch);
  }
  return ran;
}

TEST(CpuBudgetTest, ABusyGuestGetsItsShare) {
  for (const uint32_t limit : {10u, 250u, 500u, 999u, 1500u, 2000u, 7300u}) {
    const uint32_t cpus = (limit + 999) / 1000;
    CpuBudget budget(limit, cpus);
    const Ran ran = Simulate(budget, cpus, 20'000);
    const double share = static_cast<double>(ran.used) / (20'000. * kMillisecond) * 1000;
    EXPECT_NEAR(share, limit, limit * 0.02 + 5) << limit;
  }
}

TEST(CpuBudgetTest, AGuestThatIsWithinItIsNeverStopped) {
  CpuBudget budget(1000, 2);
  EXPECT_EQ(Simulate(budget, 1, 10'000).used / kMillisecond / 1000, 10u);
}

TEST(CpuBudgetTest, AnIdleGuestIsLookedAtSeldom) {
  CpuBudget budget(500, 1);
  EXPECT_LE(Simulate(budget, 0, 1'000).looks, 21u);
}

TEST(CpuBudgetTest, RestIsNotSavedUp) {
  CpuBudget budget(100, 1);
  (void)budget.At(1, 0);
  const Ran ran = Simulate(budget, 1, 100, 3600'000 * kMillisecond);
  EXPECT_LE(ran.longest, 25 * kMillisecond);
}

}  // namespace
}  // namespace clearvm::vmm
