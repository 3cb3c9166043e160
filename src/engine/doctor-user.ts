/** What an ordinary user lacks for running containers. */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { userInfo } from 'node:os';
import path from 'node:path';

import { messageOf } from '../errors.js';
import { namespaceCommand } from '../vm/user-namespace.js';
import { bad, ok, type Finding } from './finding.js';

/** What podman and docker ask for, too: with fewer, there are images that do not fit. */
const ENOUGH_IDS = 65_536;
/** A VMM has one open for each file that its guest knows; root's VMMs have up to a million. */
const ENOUGH_FILES = 65_536;
/** The command that gives a user ids. */
const ADD_IDS =
  'install the package uidmap, and run as root `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER` (a range that nobody else has); then end the process clearvm-pause of that user';

/** Settings that forbid user namespaces: file, the value that does, and what to do. */
const SWITCHES: readonly (readonly [string, string, string])[] = [
  [
    '/proc/sys/kernel/unprivileged_userns_clone',
    '0',
    'run `sysctl -w kernel.unprivileged_userns_clone=1` as root, and put it into /etc/sysctl.d',
  ],
  [
    '/proc/sys/user/max_user_namespaces',
    '0',
    'run `sysctl -w user.max_user_namespaces=10000` as root, and put it into /etc/sysctl.d',
  ],
  [
    '/proc/sys/kernel/apparmor_restrict_unprivileged_userns',
    '1',
    'give clearvm-userns an AppArmor profile with `userns,`, or run `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0` as root',
  ],
];

/** $1: a directory. Mounts an overlay there as containers have theirs, in a namespace of its own, and removes everything. */
const TRY_OVERLAY = `set -e
place=$(mktemp -d "$1/.doctor.XXXXXX")
trap 'rm -rf "$place"' EXIT
cd "$place"
mkdir lower upper work root
setfattr -n user.overlay.opaque -v y upper
unshare --mount mount -t overlay -o userxattr,lowerdir=lower,upperdir=upper,workdir=work overlay root`;

function read(file: string): string | undefined {
  try {
    return readFileSync(file, 'latin1').trim();
  } catch {
    return undefined;
  }
}

/** Runs a program as containers are run; its output. Errors: what it said. */
function inside(...program: string[]): string {
  const [file = '', ...args] = namespaceCommand(program);
  try {
    return execFileSync(file, args, { encoding: 'latin1', stdio: ['ignore', 'pipe', 'pipe'] });
  } catch (error) {
    const { stderr } = error as { stderr?: string };
    throw new Error(stderr?.trim().replaceAll('\n', '; ') || messageOf(error), { cause: error });
  }
}

/** How many ids a /proc/PID/uid_map has. */
export function countIds(map: string): number {
  return map.split('\n').reduce((sum, line) => sum + (Number(line.trim().split(/\s+/)[2]) || 0), 0);
}

/** Looks at what containers of this process's user need. It makes the user's namespace, if it is not there. */
export function diagnoseUser(root: string): Finding[] {
  let map: string;
  try {
    map = inside('cat', '/proc/self/uid_map', '/proc/self/gid_map');
  } catch (error) {
    const advice = SWITCHES.find(([file, value]) => read(file) === value)?.[2];
    return [
      bad(
        'userns',
        'error',
        `no user namespace can be made: ${messageOf(error).replace(/^clearvm: /, '')}`,
        advice ??
          'use a kernel with CONFIG_USER_NS that lets ordinary users have them, or run as root',
      ),
    ];
  }
  const findings = [ok('userns', 'this user may make user namespaces, and mounts in them')];
  const ids = Math.floor(countIds(map) / 2);
  const { username } = userInfo();
  findings.push(
    ids >= ENOUGH_IDS
      ? ok('userns.ids', `containers have ${ids} user and group ids`)
      : bad(
          'userns.ids',
          'warning',
          `containers have ${ids} user and group ids of ${ENOUGH_IDS}: images with files of others than root may not fit`,
          ADD_IDS.replace('USER', username),
        ),
  );
  const files = /^Max open files +\d+ +(\S+)/m.exec(read('/proc/self/limits') ?? '')?.[1];
  if (Number(files) < ENOUGH_FILES) {
    findings.push(
      bad(
        'limit.files',
        'warning',
        `processes of this user may open ${files} files: containers with many files in use get EMFILE`,
        `raise the hard limit to ${ENOUGH_FILES} or more: nofile in /etc/security/limits.conf, or LimitNOFILE of the systemd unit`,
      ),
    );
  }
  let directory = root;
  while (!existsSync(directory)) directory = path.dirname(directory);
  try {
    inside('sh', '-c', TRY_OVERLAY, 'sh', directory);
    findings.push(ok('userns.overlay', `overlays can be mounted on ${directory}`));
  } catch (error) {
    findings.push(
      bad(
        'userns.overlay',
        'error',
        `no overlay can be mounted on ${directory}: ${messageOf(error)}`,
        'use Linux 5.11 or newer, the packages attr and util-linux, and a file system with user xattrs such as ext4, XFS or btrfs: name a directory on one with --root or $CLEARVM_ROOT',
      ),
    );
  }
  return findings;
}
