// The commands that run in the lab, and their stdio.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lab.h"

struct Command {
  bool used;
  uint32_t id;
  pid_t pid;
  int in, out, err;  // -1: closed
  uint8_t* pending;  // stdin not yet taken, pending_size bytes from pending_start on
  size_t pending_start, pending_size;
  bool in_ended;
};

static struct Command commands[kMaxCommands];
static struct Command* Find(uint32_t id) {
  for (int i = 0; i < kMaxCommands; i++) {
    if (commands[i].used && commands[i].id == id) return &commands[i];
  }
  return NULL;
}

static void CloseFd(int* fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

// In the new process: never returns.
static void RunCommand(const char* cwd, char** argv, char** env, const int fds[3]) {
  // setsid, so that a signal from the caller can be sent to the command and all that it started.
  setsid();
  for (int i = 0; i < 3; i++) dup2(fds[i], i);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  signal(SIGPIPE, SIG_DFL);
  struct rlimit files = {1024, 1 << 20};
  setrlimit(RLIMIT_NOFILE, &files);
  environ = env;
  if (chdir(cwd) != 0) {
    dprintf(2, "lab: cannot enter the directory %s: %s\n", cwd, strerror(errno));
    _exit(126);
  }
  execvp(argv[0], argv);
  dprintf(2, "lab: cannot run %s: %s\n", argv[0], strerror(errno));
  _exit(errno == ENOENT ? 127 : 126);
}

void Exec(uint32_t id, const char* at, size_t size) {
  const char* end = at + size;
  const char* cwd = NeedString(&at, end);
  const char* flags = NeedString(&at, end);
  int argc = atoi(NeedString(&at, end));
  char* strings[8192];
  const int limit = (int)(sizeof strings / sizeof strings[0]);
  if (argc < 1 || argc > limit / 2) Die("malformed request: %d arguments", argc);
  int count = 0;
  for (; count < argc; count++) strings[count] = (char*)NeedString(&at, end);
  strings[count++] = NULL;
  char** env = strings + count;
  for (const char* text; (text = NextString(&at, end)) != NULL;) {
    if (count == limit - 1) Die("malformed request: too many environment variables");
    strings[count++] = (char*)text;
  }
  strings[count] = NULL;

  struct Command* command = NULL;
  for (int i = 0; i < kMaxCommands && command == NULL; i++) {
    if (!commands[i].used) command = &commands[i];
  }
  if (command == NULL || Find(id) != NULL) Die("too many commands at once, or id %u is in use", id);
  int in[2], out[2], err[2];
  if (strchr(flags, 'i') != NULL) {
    if (pipe2(in, O_CLOEXEC) != 0) Die("pipe: %s", strerror(errno));
  } else {
    in[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    in[1] = -1;
  }
  if (pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0) Die("pipe: %s", strerror(errno));
  const int fds[3] = {in[0], out[1], err[1]};
  pid_t pid = fork();
  if (pid < 0) Die("fork: %s", strerror(errno));
  if (pid == 0) RunCommand(cwd, strings, env, fds);
  for (int i = 0; i < 3; i++) close(fds[i]);
  *command = (struct Command){
      .used = true, .id = id, .pid = pid, .in = in[1], .out = out[0], .err = err[0]};
  fcntl(command->out, F_SETFL, O_NONBLOCK);
  fcntl(command->err, F_SETFL, O_NONBLOCK);
  if (command->in >= 0) fcntl(command->in, F_SETFL, O_NONBLOCK);
}

// Passes on one chunk; false when there is nothing more for now.
static bool Forward(struct Command* command, int* fd, uint8_t type) {
  static uint8_t chunk[kChunk];
  ssize_t n = read(*fd, chunk, sizeof chunk - kHeaderSize);
  if (n > 0) {
    Send(command->id, type, chunk, (size_t)n);
    return true;
  }
  if (n == 0 || (errno != EAGAIN && errno != EINTR)) CloseFd(fd);
  return false;
}

static void FeedStdin(struct Command* command) {
  if (command->in < 0) return;
  while (command->pending_size > 0) {
    ssize_t n =
        write(command->in, command->pending + command->pending_start, command->pending_size);
    if (n < 0 && errno == EAGAIN) return;
    if (n < 0) {
      // The command has closed its stdin: swallow the rest, as a broken pipe would.
      n = (ssize_t)command->pending_size;
      CloseFd(&command->in);
    }
    command->pending_start += (size_t)n;
    command->pending_size -= (size_t)n;
    uint32_t taken = (uint32_t)n;
    Send(command->id, kStdinAck, &taken, 4);
    if (command->in < 0) return;
  }
  command->pending_start = 0;
  if (command->in_ended) CloseFd(&command->in);
}

void Stdin(uint32_t id, const uint8_t* bytes, size_t size) {
  struct Command* command = Find(id);
  if (command == NULL) return;  // it has ended meanwhile
  if (size == 0) {
    command->in_ended = true;
  } else if (command->in < 0) {
    uint32_t taken = (uint32_t)size;
    Send(id, kStdinAck, &taken, 4);
  } else {
    if (command->pending == NULL && (command->pending = malloc(kStdinWindow)) == NULL) {
      Die("out of memory");
    }
    if (command->pending_size + size > kStdinWindow) Die("more stdin than the window allows");
    if (command->pending_start + command->pending_size + size > kStdinWindow) {
      memmove(command->pending, command->pending + command->pending_start, command->pending_size);
      command->pending_start = 0;
    }
    memcpy(command->pending + command->pending_start + command->pending_size, bytes, size);
    command->pending_size += size;
  }
  FeedStdin(command);
}

void Reap(void) {
  int status;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
    for (int i = 0; i < kMaxCommands; i++) {
      struct Command* command = &commands[i];
      if (!command->used || command->pid != pid) continue;
      // All that it wrote is in the pipes by now. Bounded, because a process that it left behind
      // may hold a pipe and write for ever.
      for (int n = 0; n < 64 && command->out >= 0; n++) {
        if (!Forward(command, &command->out, kStdout)) break;
      }
      for (int n = 0; n < 64 && command->err >= 0; n++) {
        if (!Forward(command, &command->err, kStderr)) break;
      }
      CloseFd(&command->in);
      CloseFd(&command->out);
      CloseFd(&command->err);
      free(command->pending);
      command->pending = NULL;
      command->used = false;
      uint32_t exit_status =
          WIFSIGNALED(status) ? 128u + (uint32_t)WTERMSIG(status) : (uint32_t)WEXITSTATUS(status);
      Send(command->id, kExit, &exit_status, sizeof exit_status);
    }
  }
}

void Signal(uint32_t id, int number) {
  struct Command* command = Find(id);
  if (command == NULL) return;
  // Before its setsid the command has no process group of its own yet.
  if (kill(-command->pid, number) != 0) kill(command->pid, number);
}

void PollCommands(struct pollfd* fds) {
  // poll passes over negative descriptors.
  for (int i = 0; i < kMaxCommands; i++) {
    struct Command* c = &commands[i];
    struct pollfd* at = &fds[3 * i];
    at[0] = (struct pollfd){.fd = c->used ? c->out : -1, .events = POLLIN};
    at[1] = (struct pollfd){.fd = c->used ? c->err : -1, .events = POLLIN};
    at[2] = (struct pollfd){.fd = c->used && c->pending_size > 0 ? c->in : -1, .events = POLLOUT};
  }
}

void ServeCommands(const struct pollfd* fds) {
  for (int i = 0; i < kMaxCommands; i++) {
    struct Command* c = &commands[i];
    const struct pollfd* at = &fds[3 * i];
    if (at[0].revents != 0) Forward(c, &c->out, kStdout);
    if (at[1].revents != 0) Forward(c, &c->err, kStderr);
    if (at[2].revents != 0) FeedStdin(c);
  }
}

bool AnyCommand(void) {
  for (int i = 0; i < kMaxCommands; i++) {
    if (commands[i].used) return true;
  }
  return false;
}
