/* The workload of the start-up benchmarks: tells that it runs, with its first instructions, and
 * ends. Behind "ready" stands the wall clock: seconds and nanoseconds, 16 hexadecimal digits each.
 */
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
  static char line[] = "ready 0000000000000000 0000000000000000\n";
  long now[2];
  call(SYS_clock_gettime, 0, (long)now, 0);
  for (int part = 0; part < 2; part++)
    for (int digit = 15; digit >= 0; digit--, now[part] >>= 4)
      line[6 + 17 * part + digit] = "0123456789abcdef"[now[part] & 15];
  call(SYS_write, 1, (long)line, sizeof line - 1);
  call(SYS_exit_group, 0, 0, 0);
  __builtin_unreachable();
}
