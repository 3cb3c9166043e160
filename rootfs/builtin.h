/* What init itself tells about its VM: images need not have the programs that could. */
#ifndef CLEARVM_ROOTFS_BUILTIN_H_
#define CLEARVM_ROOTFS_BUILTIN_H_

/*
 * Runs one of them in a process of its own, and returns its exit status. On stdout:
 *
 *   top      /proc/uptime; then a line for each process: uid, tab, the line of /proc/PID/stat, tab,
 *            the command line
 *   stats    /proc/meminfo, the first line of /proc/stat, and "Tasks: N" (the threads of all
 *            processes)
 *   sync     nothing: what the container has written is on the host afterwards
 *   refresh  nothing: the same, and caches of files are dropped, so that changes by the host show
 *
 * init, the kernel's own threads, and the process that runs this are left out. Control characters
 * of names and command lines are blanks here. src/engine/running-commands.ts reads it.
 */
int builtin_run(const char* name);

#endif
