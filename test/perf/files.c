/* files map|read PATH: maps the file and touches each page, or reads it in pieces of 64 KiB; prints the microseconds, and stays. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

int main(int argc, char** argv) {
  static char piece[65536];
  struct stat is;
  if (argc != 3) return 2;
  const int file = open(argv[2], O_RDONLY);
  if (file < 0 || fstat(file, &is) != 0) return 1;
  const double start = now();
  if (strcmp(argv[1], "map") == 0) {
    const volatile char* bytes = mmap(NULL, (size_t)is.st_size, PROT_READ, MAP_SHARED, file, 0);
    if (bytes == MAP_FAILED) return 1;
    for (off_t at = 0; at < is.st_size; at += 4096) (void)bytes[at];
  } else {
    while (read(file, piece, sizeof piece) > 0) {
    }
  }
  printf("%.0f\n", now() - start);
  fflush(stdout);
  pause();
}
