/** Facts of this host and this process that are read once. */
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';

let bootId: string | undefined;
let ownStartTime: string | undefined;

/** A text that is another one after every boot. */
export function currentBootId(): string {
  return (bootId ??= readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim());
}

/**
 * When a process started, in clock ticks since boot: with the pid, a name that no later process has. Undefined when there
 * is none of that pid. Zombies count as gone.
 */
export function processStartTime(pid: number | 'self'): string | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return undefined;
  }
  // The command's name, in parentheses, may hold blanks and parentheses: fields are counted behind the last one.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19];
}

/** This process's own start time. */
export function selfStartTime(): string {
  return (ownStartTime ??= processStartTime('self') ?? '0');
}

/** Random bytes of the kernel's: loading node:crypto for them would take longer than all else that a run does in Node. */
export function randomBytes(size: number): Buffer {
  const bytes = Buffer.alloc(size);
  const fd = openSync('/dev/urandom', 'r');
  try {
    if (readSync(fd, bytes) !== size) throw new Error('/dev/urandom gives no bytes');
  } finally {
    closeSync(fd);
  }
  return bytes;
}
