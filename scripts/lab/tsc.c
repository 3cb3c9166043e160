// Prints how many kHz this machine's time stamp counter has.
//
// A lab's kernel would measure it against an emulated timer, while its emulator may not get a
// processor when it wants one. That is what we believe of a lab on a busy machine, whose clock ran
// several times too fast.

#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

struct Sample {
  uint64_t tsc;
  int64_t ns;  // CLOCK_MONOTONIC_RAW
};

static int64_t Now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC_RAW, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

// Both at one time: of many tries, that which was interrupted least.
static struct Sample Take(void) {
  struct Sample best = {0, 0};
  int64_t narrowest = INT64_MAX;
  for (int i = 0; i < 1000; i++) {
    const int64_t before = Now();
    const uint64_t tsc = __rdtsc();
    const int64_t after = Now();
    if (after - before >= narrowest) continue;
    narrowest = after - before;
    best = (struct Sample){tsc, before + (after - before) / 2};
  }
  return best;
}

int main(void) {
  const struct Sample first = Take();
  nanosleep(&(struct timespec){.tv_nsec = 50 * 1000 * 1000}, NULL);
  const struct Sample last = Take();
  const uint64_t ticks = last.tsc - first.tsc;
  printf("%llu\n", (unsigned long long)(ticks * 1000000ULL / (uint64_t)(last.ns - first.ns)));
  return 0;
}
