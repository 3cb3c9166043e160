#include "rootfs/renew.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "rootfs/agent.h"
#include "rootfs/mounts.h"
#include "rootfs/parse_spec.h"

#define NANOSECONDS 1000000000ull
#define HIGHEST 99 /* priority of SCHED_FIFO */

static int random_device = -1;

void renew_prepare(void) {
  /* Kept: a container may have another file at that name. */
  random_device = open("/dev/random", O_RDWR | O_CLOEXEC);
}

static void set_time(const struct clearvm_identity* identity) {
  uint64_t time = identity->time;
  uint64_t tsc = __builtin_ia32_rdtsc();
  if (identity->tsc_khz != 0 && tsc > identity->tsc)
    time += (tsc - identity->tsc) * 1000000 / identity->tsc_khz;
  struct timespec now = {(time_t)(time / NANOSECONDS), (long)(time % NANOSECONDS)};
  if (clock_settime(CLOCK_REALTIME, &now) != 0)
    FAIL(EXIT_SETUP_FAILED, "cannot set the time: ", error_text(errno));
}

void renew_identity(struct clearvm_identity* identity) {
  struct {
    struct rand_pool_info info;
    uint8_t seed[sizeof identity->seed];
  } entropy = {
      .info = {.entropy_count = 8 * sizeof identity->seed, .buf_size = sizeof identity->seed}};
  memcpy(entropy.seed, identity->seed, sizeof identity->seed);
  if (ioctl(random_device, RNDADDENTROPY, &entropy) != 0 ||
      ioctl(random_device, RNDRESEEDCRNG) != 0)
    FAIL(EXIT_SETUP_FAILED, "cannot seed the random numbers: ", error_text(errno));
  set_time(identity);
  explicit_bzero(identity, sizeof *identity);
  explicit_bzero(&entropy, sizeof entropy);
}

/* musl's function of that name does nothing. */
static int set_policy(int policy, int priority) {
  struct sched_param parameter = {.sched_priority = priority};
  return (int)syscall(SYS_sched_setscheduler, 0, policy, &parameter);
}

struct barrier {
  atomic_int waiting, released;
};

/* A process that keeps one processor from everybody else. */
static pid_t occupy(int processor, struct barrier* barrier) {
  cpu_set_t only;
  CPU_ZERO(&only);
  CPU_SET(processor, &only);
  pid_t pid = fork(); /* with init's policy, and behind init until it is moved */
  if (pid == 0) {
    stamps_close();
    atomic_fetch_add(&barrier->waiting, 1);
    while (atomic_load(&barrier->released) == 0) __builtin_ia32_pause();
    _exit(0);
  }
  if (pid > 0) sched_setaffinity(pid, sizeof only, &only);
  return pid;
}

/* Has nothing but init and its helpers run. NULL: it cannot be done now. */
static struct barrier* occupy_all(const cpu_set_t* all) {
  struct barrier* barrier =
      mmap(NULL, sizeof *barrier, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (barrier == MAP_FAILED) return NULL;
  int own = sched_getcpu(), others = 0;
  cpu_set_t only;
  CPU_ZERO(&only);
  CPU_SET(own, &only);
  sched_setaffinity(0, sizeof only, &only);
  set_policy(SCHED_FIFO, HIGHEST);
  for (int i = 0; i < CPU_SETSIZE; i++)
    if (i != own && CPU_ISSET(i, all) && occupy(i, barrier) > 0) others++;
  while (atomic_load(&barrier->waiting) < others) __builtin_ia32_pause();
  return barrier;
}

static void release_all(struct barrier* barrier, const cpu_set_t* all) {
  atomic_store(&barrier->released, 1);
  munmap(barrier, sizeof *barrier);
  set_policy(SCHED_OTHER, 0);
  sched_setaffinity(0, sizeof *all, all);
}

/* What a process can look at to find out that it is in another VM now. */
static void renew_boot_id(void) {
  uint8_t bytes[16];
  char text[38];
  size_t at = 0;
  static const char digits[] = "0123456789abcdef";
  if (syscall(SYS_getrandom, bytes, sizeof bytes, 0) != sizeof bytes) return;
  bytes[6] = (uint8_t)((bytes[6] & 0x0f) | 0x40); /* RFC 4122, version 4 */
  bytes[8] = (uint8_t)((bytes[8] & 0x3f) | 0x80);
  for (size_t i = 0; i < sizeof bytes; i++) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text[at++] = '-';
    text[at++] = digits[bytes[i] >> 4];
    text[at++] = digits[bytes[i] & 15];
  }
  text[at++] = '\n';
  mount_boot_id(text, at);
}

/* `tlvs` is the VM's spec, of which only what is its own is new. */
static void renew_names(uint8_t* tlvs, size_t length) {
  struct spec spec;
  const char* wrong = spec_parse(tlvs, length, SPEC_CONTAINER, &spec);
  if (wrong != NULL) FAIL(EXIT_SETUP_FAILED, "the spec is malformed: ", wrong);
  if (spec.hostname != NULL && sethostname(spec.hostname, strlen(spec.hostname)) != 0)
    FAIL(EXIT_SETUP_FAILED, "cannot set the host name: ", error_text(errno));
  mount_renew_files(&spec);
  spec_free(&spec);
}

static void read_port(void* data, size_t length) {
  /* All pages are there first: where one faults, KVM has read what was to come there, and loses it.
   */
  memset(data, 0, length);
  /* Not insb(3), which does not tell the compiler that memory changes. */
  __asm__ volatile("rep insb"
                   : "+D"(data), "+c"(length)
                   : "d"((uint16_t)CLEARVM_PORT_IO_IDENTITY)
                   : "memory");
}

int renew_at_point(void) {
  cpu_set_t all;
  if (sched_getaffinity(0, sizeof all, &all) != 0) return false;
  struct barrier* barrier = occupy_all(&all);
  if (barrier == NULL) return false;
  struct clearvm_renewal renewal;
  outb(1, CLEARVM_PORT_IO_SNAPSHOT);
  /* Here a snapshot goes on, and so does the VM of which it was made. */
  read_port(&renewal, sizeof renewal);
  bool other = renewal.flags == CLEARVM_RENEWAL_OTHER;
  if (other) {
    renew_identity(&renewal.identity);
    if (renewal.spec_length > CLEARVM_FRAME_MAX) FAIL(EXIT_SETUP_FAILED, "the spec is too long");
    uint8_t* tlvs = malloc(renewal.spec_length + 1u);
    if (tlvs == NULL) FAIL(EXIT_SETUP_FAILED, "no memory left for the spec");
    read_port(tlvs, renewal.spec_length);
    renew_names(tlvs, renewal.spec_length);
    free(tlvs);
    renew_boot_id();
  } else if (renewal.flags == 0) {
    set_time(&renewal.identity); /* it stood still; else nobody has answered */
  }
  release_all(barrier, &all);
  return other;
}
