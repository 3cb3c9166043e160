/* The workload of the start-up benchmarks: tells that it runs, with its first instructions, and ends. */
#include <sys/syscall.h>

static long call(long number, long a, long b, long c) {
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c)
                   : "rcx", "r11", "memory");
  return result;
}

void _start(void) {
  call(SYS_write, 1, (long)"ready\n", 6);
  call(SYS_exit_group, 0, 0, 0);
  __builtin_unreachable();
}
