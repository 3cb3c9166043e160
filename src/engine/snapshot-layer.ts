/** A container's writable layer as an archive and back, with everything that overlayfs keeps in it. */
import { execa } from 'execa';

import { ClearVMError, messageOf } from '../errors.js';
import { loadAddon } from '../vm/native.js';
import { LAYER, type SocketFile } from './snapshot-record.js';

/** What no setting of the user's may change. */
const ENVIRONMENT = {
  PATH: process.env['PATH'] ?? '/usr/sbin:/usr/bin:/sbin:/bin',
  LC_ALL: 'C',
};
/** Whiteouts are character devices, opaque directories have trusted.overlay.opaque. */
const ATTRIBUTES = ['--xattrs', '--xattrs-include=*', '--acls', '--numeric-owner'];

async function run(file: string, args: string[]): Promise<Buffer> {
  try {
    const { stdout } = await execa(file, args, {
      ...{ extendEnv: false, env: ENVIRONMENT, stdin: 'ignore', encoding: 'buffer' },
    });
    return Buffer.from(stdout);
  } catch (cause) {
    throw new ClearVMError('ERR_SNAPSHOT_LAYER', `${file} failed: ${messageOf(cause)}`, { cause });
  }
}

/** Writes the archive into `directory`; returns the sockets, of which it has none. Errors: ERR_SNAPSHOT_LAYER. */
export async function saveLayer(upper: string, directory: string): Promise<SocketFile[]> {
  const found = await run('find', [upper, '-type', 's', '-printf', '%m %U %G %P\\0']);
  await run('tar', [
    ...['--create', '--file', `${directory}/${LAYER}`, '--format=posix', '--sparse'],
    ...ATTRIBUTES,
    ...['--warning=no-file-ignored', '--directory', upper, '.'],
  ]);
  const sockets: SocketFile[] = [];
  for (let at = 0; at < found.length;) {
    const end = found.indexOf(0, at);
    const entry = found.subarray(at, end);
    at = end + 1;
    const [, mode = '', uid = '', gid = ''] =
      /^([0-7]+) (\d+) (\d+) /.exec(entry.toString('latin1')) ?? [];
    const path = entry.subarray(mode.length + uid.length + gid.length + 3).toString('base64');
    sockets.push({ path, mode: Number.parseInt(mode, 8), uid: Number(uid), gid: Number(gid) });
  }
  return sockets;
}

/** Fills an empty directory from the archive in `directory`. Errors: ERR_SNAPSHOT_LAYER. */
export async function restoreLayer(
  directory: string,
  sockets: readonly SocketFile[],
  upper: string,
): Promise<void> {
  await run('tar', [
    ...['--extract', '--file', `${directory}/${LAYER}`, '--same-owner', '--preserve-permissions'],
    ...ATTRIBUTES,
    ...['--directory', upper],
  ]);
  for (const { path, mode, uid, gid } of sockets) {
    const file = Buffer.concat([Buffer.from(`${upper}/`), Buffer.from(path, 'base64')]);
    loadAddon().makeSocketFile(file, mode, uid, gid);
  }
}
