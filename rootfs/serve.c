#include "rootfs/serve.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rootfs/agent.h"
#include "rootfs/process.h"
#include "rootfs/renew.h"

struct process {
  uint32_t number; /* 0: the container's first */
  pid_t pid;
  int status;
  bool ended;
  bool told; /* EXIT has been sent; others may still write to its pipes */
  struct channels* channels;
  struct process* next;
  struct channels own[]; /* of all but the container's first */
};

static struct process container;
static struct process* processes = &container; /* all of them; the last one is the container's */
static size_t process_count = 1;

static struct process* find(uint32_t number) {
  for (struct process* p = processes; p != NULL; p = p->next)
    if (p->number == number && !p->told) return p;
  return NULL;
}

struct end end_of(int status) {
  if (WIFEXITED(status)) return (struct end){(uint32_t)WEXITSTATUS(status), 0};
  uint32_t signal = (uint32_t)WTERMSIG(status);
  return (struct end){128 + signal, signal};
}

static void deliver_signal(uint32_t number, uint32_t signal) {
  struct process* p = find(number);
  if (p != NULL && !p->ended && signal > 0 && signal < _NSIG) kill(p->pid, (int)signal);
}

static void resize(uint32_t number, uint16_t rows, uint16_t columns) {
  struct process* p = find(number);
  if (p != NULL) channels_resize(p->channels, rows, columns);
}

static void hang_up(uint32_t number) {
  struct process* p = find(number);
  if (p != NULL) channels_hang_up(p->channels);
}

static void snapshot(void) {
  /* What the container has written to its volumes is then theirs, and not a second time a fork's.
   */
  sync();
  if (renew_at_point()) agent_send_restored();
}

/* Returns 0, or -1 with a failure noted. */
static int start(struct process* p, struct spec* spec) {
  static struct identity identity;
  int stdio[3] = {-1, -1, -1};
  int result = channels_connect(p->channels, p->number, spec->flags);
  if (result == 0) result = process_identify(spec, &identity);
  if (result == 0) result = channels_open(p->channels, spec, &identity, stdio);
  if (result == 0 && chdir(spec->cwd) != 0)
    result = FAILED(EXIT_CANNOT_EXECUTE, "chdir to cwd (\"", spec->cwd,
                    "\") failed: ", error_text(errno));
  if (result == 0) {
    p->pid = process_start(p->number, spec, &identity, stdio);
    if (p->pid < 0) result = -1;
  }
  for (int i = 0; i < 3; i++)
    if (stdio[i] >= 0) close(stdio[i]);
  chdir("/");
  if (result != 0) channels_close(p->channels);
  return result;
}

static void exec(uint32_t number, uint8_t* tlvs, size_t length) {
  struct spec spec;
  struct process* p = calloc(1, sizeof *p + sizeof *p->own);
  const char* wrong =
      p == NULL ? "no memory left for it" : spec_parse(tlvs, length, SPEC_EXEC, &spec);
  int result = 0;
  if (wrong != NULL) result = FAILED(EXIT_SETUP_FAILED, "cannot take the spec: ", wrong);
  if (result == 0) {
    p->number = number;
    p->channels = p->own;
    result = start(p, &spec);
  }
  if (p != NULL) spec_free(&spec);
  if (result != 0) {
    free(p);
    agent_send_failure(number);
    return;
  }
  p->next = processes;
  processes = p;
  process_count++;
  agent_send_started(number);
}

static void reap(void) {
  int status;
  pid_t pid;
  bool is_over = false;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    for (struct process* p = processes; p != NULL; p = p->next) {
      if (p->pid != pid || p->ended) continue;
      p->ended = true;
      p->status = status;
      if (p == &container) is_over = true;
    }
  }
  /* All but init: what is left of a container ends with its first process. Where init has no child,
   * nobody is left, as orphans become its children, and each of the kernel's threads, of which
   * every vCPU has some, is spared a look (in a fork, four copied pages each). */
  if (is_over && pid == 0) kill(-1, SIGKILL);
}

/* Tells of those whose output is all out, and forgets those that nobody has anything left of. */
static void settle(void) {
  for (struct process** at = &processes; *at != &container;) {
    struct process* p = *at;
    if (p->ended && !p->told && channels_drained(p->channels)) {
      struct end end = end_of(p->status);
      channels_disconnect(p->channels);
      p->told = true;
      agent_send_exit(p->number, end.code, end.signal);
    }
    if (p->told && channels_over(p->channels)) {
      *at = p->next;
      process_count--;
      free(p);
    } else {
      at = &p->next;
    }
  }
}

/* Waits until something is to be done; not at all where a process has ended, and may have left
 * nothing in its pipes. */
static struct pollfd* wait_for_events(void) {
  static struct pollfd* polls;
  static size_t room;
  size_t count = 1 + CHANNELS_POLLS * process_count;
  if (count > room) {
    struct pollfd* more = realloc(polls, 2 * count * sizeof *polls);
    if (more == NULL) fail();
    polls = more;
    room = 2 * count;
  }
  polls[0] = (struct pollfd){.fd = agent_fd(), .events = POLLIN};
  bool hurry = false;
  struct pollfd* next = polls + 1;
  for (struct process* p = processes; p != NULL; p = p->next, next += CHANNELS_POLLS) {
    channels_prepare(p->channels, next);
    hurry |= p->ended && !p->told && p != &container && channels_empty(p->channels);
  }
  /* SIGCHLD is blocked but here, so none is missed. */
  static sigset_t none;
  static const struct timespec now;
  if (ppoll(polls, count, hurry ? &now : NULL, &none) < 0)
    for (size_t i = 0; i < count; i++) polls[i].revents = 0;
  return polls;
}

int serve(pid_t pid, struct channels* channels) {
  static const struct agent_requests requests = {deliver_signal, resize, hang_up, snapshot, exec};
  container.pid = pid;
  container.channels = channels;
  while (!container.ended || !channels_drained(container.channels)) {
    const struct pollfd* polls = wait_for_events();
    const struct pollfd* next = polls + 1;
    for (struct process* p = processes; p != NULL; p = p->next, next += CHANNELS_POLLS) {
      channels_advance(p->channels, next);
      if (p->ended && p != &container) channels_finish(p->channels, next);
    }
    /* After those that were polled, because there may be another process then. */
    if (polls[0].revents != 0) agent_receive(&requests);
    reap();
    settle();
  }
  return container.status;
}

static void on_child(int number) { (void)number; } /* only to interrupt ppoll */

void serve_prepare(void) {
  struct sigaction action = {.sa_handler = on_child};
  sigaction(SIGCHLD, &action, NULL);
  signal(SIGPIPE, SIG_IGN);
  sigset_t child_signal;
  sigemptyset(&child_signal);
  sigaddset(&child_signal, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child_signal, NULL);
}
