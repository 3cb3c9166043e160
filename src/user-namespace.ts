/**
 * Where an ordinary user's containers live: a user namespace, in which this process is root (docs/decisions/rootless.md), and
 * directories of the user's own. `clearvm-userns` sets the variables that are read here.
 */
import { readFileSync, statSync } from 'node:fs';
import { homedir } from 'node:os';

const HELPER = 'CLEARVM_USERNS';
const DIRECTORY = 'CLEARVM_USERNS_DIRECTORY';

let inside: boolean | undefined;

/** The program that has put this process into the user namespace of an ordinary user; undefined in all other processes. */
export function namespaceHelper(): string | undefined {
  const helper = process.env[HELPER];
  return helper && process.getuid?.() === 0 && hasOwnIds() ? helper : undefined;
}

/** The variable may have come by way of sudo to the host's root, whose ids are mapped to themselves. */
function hasOwnIds(): boolean {
  return (inside ??= !/^\s*0\s+0\s+4294967295\s*$/.test(
    readFileSync('/proc/self/uid_map', 'latin1'),
  ));
}

/** Whether this process is root in a user namespace of an ordinary user's, by the command or `enterUserNamespace`. */
export function isRootless(): boolean {
  return namespaceHelper() !== undefined;
}

/** Whether the engine has to be run by way of `enterUserNamespace`, and is not. */
export function isOutside(): boolean {
  return process.getuid?.() !== 0;
}

/** Where images, containers and volumes are kept unless another place is named: root's, or this user's. An absolute path. */
export function defaultRoot(): string {
  if (!isOutside() && !isRootless()) return '/var/lib/clearvm';
  return `${process.env['XDG_DATA_HOME'] || `${homedir()}/.local/share`}/clearvm`;
}

/** Where the sockets of running containers are unless another place is named: root's, or this user's. An absolute path. */
export function defaultRuntimeDirectory(): string {
  if (isRootless() && process.env[DIRECTORY]) return process.env[DIRECTORY];
  if (!isOutside()) return '/run/clearvm';
  const given = process.env['XDG_RUNTIME_DIR'];
  if (given) return `${given}/clearvm`;
  // Where there is a session, commands of su, ssh and cron are to find the same place.
  const uid = process.getuid?.() ?? 0;
  const session = `/run/user/${uid}`;
  return statSync(session, { throwIfNoEntry: false })?.uid === uid
    ? `${session}/clearvm`
    : `/tmp/clearvm-run-${uid}`;
}
