/*
 * The protocol between the VMM (host) and init (guest PID 1), over virtio-vsock.
 *
 * This header is the protocol's only definition. It is C, so that init includes it too;
 * test/unit checks that src/vm/protocol.ts agrees with it. Prose: docs/compatibility.md.
 *
 * init opens one stream to (VMADDR_CID_HOST, CLEARVM_PORT_CONTROL) and speaks frames on it; each stdio
 * channel is a stream of its own, of raw bytes, so that no channel can hold up another.
 * All integers are little-endian. The VMM treats every byte from the guest as hostile.
 */
#ifndef CLEARVM_PROTOCOL_AGENT_H_
#define CLEARVM_PROTOCOL_AGENT_H_

#include <stdint.h>

#define CLEARVM_AGENT_VERSION 5

/*
 * vsock ports on the host (CID 2) that init connects to. Those of process n (below) lie 4 * n higher, and
 * are connected to from a guest port below 1024 if n is not 0: what the container's users may run cannot
 * use these, and so cannot take init's place.
 */
#define CLEARVM_PORT_CONTROL 1024
#define CLEARVM_PORT_STDIN 1025  /* host to guest; end-of-file by shutdown */
#define CLEARVM_PORT_STDOUT 1026 /* guest to host; with a terminal: both directions, and the only one */
#define CLEARVM_PORT_STDERR 1027 /* guest to host; not used with a terminal */
#define CLEARVM_PORTS_PER_PROCESS 4
#define CLEARVM_PORT_GUEST_LIMIT 1024

/* Processes are numbered from 1 to this one, and then from 1 again: 4 * n is still a port. */
#define CLEARVM_PROCESS_MAX 0x0fffffff

/* The largest payload of a frame, in bytes: a spec with a long environment fits, a flood does not. */
#define CLEARVM_FRAME_MAX (1u << 20)
/* The largest payload of a frame from the guest, in bytes. */
#define CLEARVM_GUEST_FRAME_MAX 4096u

struct clearvm_frame {
  uint32_t length;   /* payload bytes that follow this header */
  uint16_t type;     /* enum clearvm_agent_frame_type */
  uint16_t reserved; /* 0 */
  uint32_t process;  /* 0: the container's first process; else the number that EXEC gave it */
};

enum clearvm_agent_frame_type {
  /* VMM to init */
  CLEARVM_AGENT_SPEC = 1,     /* payload: TLVs, below; sent once, right behind IDENTITY */
  CLEARVM_AGENT_SIGNAL = 2,   /* payload: uint32 signal number */
  CLEARVM_AGENT_RESIZE = 3,   /* payload: uint16 rows, uint16 columns */
  CLEARVM_AGENT_IDENTITY = 4, /* payload: struct clearvm_identity; the first frame */
  CLEARVM_AGENT_EXEC = 5,     /* payload: TLVs; starts another process, of a number that no other has */
  CLEARVM_AGENT_HANGUP = 6,   /* no payload; the process's terminal is gone */
  CLEARVM_AGENT_SNAPSHOT = 7, /* no payload; go to the point at which a snapshot may be taken (below) */
  /* init to VMM */
  CLEARVM_AGENT_READY = 0x81,   /* payload: uint32 CLEARVM_AGENT_VERSION; init waits for a spec */
  CLEARVM_AGENT_STARTED = 0x82, /* no payload; the process's execve(2) has succeeded */
  CLEARVM_AGENT_EXIT = 0x83,    /* payload: uint32 exit code (0..255), uint32 signal (0: exited), and of
                                   process 0 uint32 CLEARVM_EXIT_*; all output has been sent before it */
  CLEARVM_AGENT_ERROR = 0x84,   /* payload: uint32 exit code (125, 126 or 127), then UTF-8 text: the
                                   process does not start */
  CLEARVM_AGENT_RESTORED = 0x85 /* no payload; this VM goes on from a snapshot, and is another one now */
};

#define CLEARVM_EXIT_OOM 1u /* the guest's kernel has killed a process for want of memory */

/*
 * What makes this VM another one than those that were forked from the same template: init acts on
 * it before on anything else.
 */
struct clearvm_identity {
  uint8_t seed[32]; /* fresh random bytes, for the kernel's generator */
  uint64_t time;    /* ns since the epoch, when the frame was sent: CLOCK_REALTIME to set */
  uint64_t tsc;     /* the guest's TSC at that time; it takes init a while to come to it */
  uint64_t tsc_khz; /* its rate; 0: neither is known */
};

/*
 * What init reads, byte by byte, from CLEARVM_PORT_IO_IDENTITY behind the point at which a snapshot may be taken.
 * A spec follows: in another VM, what is to be changed to its HOSTNAME and FILEs.
 */
struct clearvm_renewal {
  uint32_t flags;       /* CLEARVM_RENEWAL_* */
  uint32_t spec_length; /* bytes */
  struct clearvm_identity identity; /* the times are those of the reading; the seed is another VM's only */
};
#define CLEARVM_RENEWAL_OTHER 1u /* this is not the VM that has come to the point */

/*
 * A spec is a run of TLVs: this header, then `length` bytes, no padding. Unknown tags are an error; so are those
 * about the container, and not one process, in an EXEC: ROOT, HOSTNAME, MOUNT, FILE, SYSCTL, MASK, READONLY, PIDS,
 * OOM_SCORE.
 */
struct clearvm_tlv {
  uint16_t tag; /* enum clearvm_spec_tag */
  uint16_t reserved;
  uint32_t length;
};

enum clearvm_spec_tag {
  CLEARVM_SPEC_ARG = 1,      /* one argument, no NUL; repeated, in order; at least one */
  CLEARVM_SPEC_ENV = 2,      /* one "NAME=value", no NUL; repeated, in order */
  CLEARVM_SPEC_CWD = 3,      /* absolute path; created (0755) where it is missing, as docker does,
                                but not for an EXEC */
  CLEARVM_SPEC_USER = 4,     /* "name", "uid", "name:group", "uid:gid" ...: resolved by init through the
                                image's /etc/passwd and /etc/group, as docker does */
  CLEARVM_SPEC_HOSTNAME = 5, /* at most 64 bytes */
  CLEARVM_SPEC_MOUNT = 6,    /* a struct clearvm_spec_mount, then four NUL-terminated strings:
                                type, source, target, data; repeated, mounted in order after the
                                built-in ones; a missing target is created (a directory, or an
                                empty file when CLEARVM_MOUNT_FILE is set) */
  CLEARVM_SPEC_RLIMIT = 7,   /* uint32 RLIMIT_*, uint32 0, uint64 soft, uint64 hard; repeated */
  CLEARVM_SPEC_CAPS = 8,     /* five uint64 masks: bounding, effective, permitted, inheritable, ambient */
  CLEARVM_SPEC_FLAGS = 9,    /* uint32 of CLEARVM_FLAG_* */
  CLEARVM_SPEC_GROUP = 10,   /* one additional group, name or gid; repeated */
  CLEARVM_SPEC_FILE = 11,    /* uint32 mode, absolute path, NUL, content: a file kept in the guest's memory
                                and bind-mounted over the path (/etc/hosts, /etc/hostname, ...); repeated */
  CLEARVM_SPEC_WINSIZE = 12, /* uint16 rows, uint16 columns: the terminal's first size */
  CLEARVM_SPEC_SYSCTL = 13,  /* "name=value"; repeated */
  CLEARVM_SPEC_ROOT = 14,    /* the root file system: "type\0source\0data\0", as mount(2) takes them,
                                e.g. "9p", "root", "trans=virtio,version=9p2000.L,msize=..."; once */
  CLEARVM_SPEC_MASK = 15,    /* absolute path to hide behind something empty, if it is there; repeated */
  CLEARVM_SPEC_READONLY = 16, /* absolute path to make read-only, if it is there; repeated */
  CLEARVM_SPEC_PIDS = 17,     /* uint32: how many threads the container's processes may have; at least 1 */
  CLEARVM_SPEC_OOM_SCORE = 18 /* int32: -1000 to 1000, proc(5)'s oom_score_adj of all its processes */
};

#define CLEARVM_FLAG_TERMINAL 1u      /* the process gets a pseudo-terminal */
#define CLEARVM_FLAG_STDIN 2u         /* stdin is attached; otherwise it is /dev/null */
#define CLEARVM_FLAG_NO_NEW_PRIVS 4u
#define CLEARVM_FLAG_READONLY_ROOT 8u /* the root is mounted read-only */
#define CLEARVM_FLAG_BUILTIN 16u      /* EXEC: not a program of the image but one of init's, named by the first
                                         argument (rootfs/builtin.h); its output goes to stdout */

struct clearvm_spec_mount {
  uint64_t flags;   /* MS_* of mount(2) */
  uint32_t options; /* CLEARVM_MOUNT_* */
  uint32_t reserved;
};
#define CLEARVM_MOUNT_FILE 1u /* the source is a directory that holds one file, named "file": mounted aside,
                                 and that file bind-mounted on the target (a volume that is one file) */

/*
 * Port I/O by which the guest tells the VMM what no virtio device can: where the boot has come to, and
 * why it died. Byte-wide; written by the guest kernel (guest-kernel/patches) and by init.
 */
#define CLEARVM_PORT_IO_STAMP 0x600     /* write an enum clearvm_stamp: a mark on the timeline */
#define CLEARVM_PORT_IO_PANIC_LOG 0x601 /* write (rep outsb): text of the kernel log, on a panic */
#define CLEARVM_PORT_IO_PANIC 0x602     /* write anything: the guest kernel has panicked; the VM ends */
#define CLEARVM_PORT_IO_SNAPSHOT 0x603  /* write anything, when SNAPSHOT has come, and nothing but init runs: behind
                                           it the VM may be stopped, and it and others go on */
#define CLEARVM_PORT_IO_IDENTITY 0x604  /* read then: struct clearvm_renewal, and its spec */

enum clearvm_stamp {
  CLEARVM_STAMP_KERNEL = 1, /* start_kernel's beginning (not used yet) */
  CLEARVM_STAMP_INIT = 2,   /* init's first instructions */
  CLEARVM_STAMP_ROOT = 3,   /* the root file system is mounted */
  CLEARVM_STAMP_EXEC = 4    /* just before the container's execve */
};

#endif
