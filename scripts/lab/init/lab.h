// The parts of a lab's init, and the frames that it exchanges with its caller (../protocol.mjs):
//   u32 length of what follows, u32 command id, u8 type, payload; all little-endian.

#ifndef CLEARVM_SCRIPTS_LAB_INIT_LAB_H_
#define CLEARVM_SCRIPTS_LAB_INIT_LAB_H_

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  // caller to lab
  kSetup = 1,      // records of strings; see Setup()
  kExec = 2,       // cwd, flags, argc, argv..., env...; all NUL-terminated strings
  kStdin = 3,      // bytes; an empty payload is end-of-file
  kSignal = 4,     // u8 signal number
  kHeartbeat = 5,  // nothing: an interrupt from time to time
  // lab to caller
  kReady = 16,
  kStdout = 17,
  kStderr = 18,
  kExit = 19,      // u32 exit status, 128+n after signal n
  kStdinAck = 20,  // u32 number of bytes that the command has taken from its stdin
  kFailed = 21,    // text: the lab cannot go on
};

enum {
  kHeaderSize = 9,
  kMaxFrame = 1 << 20,
  // The virtio console driver copies at most this much per write.
  kChunk = 32768,
  kMaxCommands = 64,
  // The caller keeps at most this many unacknowledged bytes of stdin under way.
  kStdinWindow = 1 << 20,
};

// main.c: the channel.

// Sends one frame; `size` is at most kChunk. The caller being gone ends the lab.
void Send(uint32_t id, uint8_t type, const void* payload, size_t size);

// Tells the caller why the lab cannot go on, and ends it.
__attribute__((format(printf, 1, 2), noreturn)) void Die(const char* format, ...);

// The next string of a payload, or NULL at its end. `*at` moves behind it.
const char* NextString(const char** at, const char* end);

// The same, where the end would be a malformed request.
const char* NeedString(const char** at, const char* end);

// root.c: the lab's root file system.

// Mounts /dev, opens the console and loads the modules of /lab/modules.
void EarlyBoot(void);

// Handles kSetup. Records: "root" machine|memory, "share" TAG PATH, "bind" SOURCE TARGET,
// "link" SOURCE TARGET.
void Setup(const char* at, size_t size);

// command.c: the commands.

// Handles kExec.
void Exec(uint32_t id, const char* at, size_t size);

// Handles kStdin.
void Stdin(uint32_t id, const uint8_t* bytes, size_t size);

// Handles kSignal.
void Signal(uint32_t id, int number);

enum { kCommandFds = 3 * kMaxCommands };

// Fills kCommandFds entries for poll.
void PollCommands(struct pollfd* fds);

// Moves bytes where poll has found some.
void ServeCommands(const struct pollfd* fds);

// Collects every process that has ended, and reports the commands among them.
void Reap(void);

bool AnyCommand(void);

#endif  // CLEARVM_SCRIPTS_LAB_INIT_LAB_H_
