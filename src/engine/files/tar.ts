/** GNU tar on both sides of a copy: from a directory that is open, and into one where it can write nowhere else. */
import { spawn } from 'node:child_process';
import type { Readable, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';

import { ClearVMError, errnoOf } from '../../errors.js';
import { toolEnvironment } from '../../image/tools.js';
import { SANDBOX_READY, sandboxCommand } from '../../image/untar.js';

/** What tar says of a tree that somebody writes to meanwhile; the copy is as good as such a copy can be. */
const SOME_FILES_DIFFER = 1;

export interface PackOptions {
  /** An open directory. It stays the caller's to close, after `done`. */
  directory: number;
  /** It is a regular file, and packed itself, under the name that `transform` gives it. */
  file?: boolean;
  /** Names in it; `.` for all of it. */
  names: readonly string[];
  /** In their place: paths below the directory, each with a NUL behind it. */
  list?: Readable;
  /** What the listed directories hold is packed with them. */
  recursive?: boolean;
  /** How names are changed: tar's --transform. */
  transform?: string;
  /** Give everything to root. */
  root?: boolean;
}

/** A tar archive that is being made. */
export interface Packed {
  stream: Readable;
  /** Its end. Errors: ERR_COPY. */
  done: Promise<void>;
}

/** Packs what is in a directory, with owners, times and the extended attributes that archives of images have. */
export function pack(options: PackOptions): Packed {
  const args = ['--create', '--file=-', '--format=pax', '--numeric-owner'];
  args.push('--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime');
  args.push('--xattrs', '--xattrs-include=user.*', '--xattrs-include=security.capability');
  args.push('--xattrs-exclude=user.overlay.*', '--warning=no-file-changed');
  if (options.transform !== undefined) args.push(`--transform=${options.transform}`);
  if (options.root) args.push('--owner=0', '--group=0');
  if (options.file) args.push('--dereference', '/proc/self/fd/3');
  else args.push('--directory=/proc/self/fd/3');
  if (options.list) {
    args.push(options.recursive ? '--recursion' : '--no-recursion');
    args.push('--null', '--verbatim-files-from', '--files-from=-');
  } else args.push('--', ...options.names);
  const child = start('tar', args, [options.directory], options.list ? 'pipe' : 'ignore', 'pipe');
  // What it does not read any more it complains of.
  if (options.list && child.stdin) pipeline(options.list, child.stdin).catch(() => {});
  const done = child.ended.then(({ status, complaint }) => {
    if (status !== 0 && status !== SOME_FILES_DIFFER)
      throw failure('cannot read', status, complaint);
  });
  done.catch(() => {});
  return { stream: child.stdout as Readable, done };
}

export interface UnpackOptions {
  /** Where: an open directory in the mount namespace `space`, or a path. */
  into: { directory: number; space: number } | string;
  /** An empty directory, for the sandbox. */
  scratch: string;
  /** Give files the owners that the archive has; otherwise they are this user's. */
  owners: boolean;
}

/**
 * Unpacks an archive, over what is there: new files take the place of old ones, directories are kept. Errors: ERR_COPY.
 */
export async function unpack(stream: Readable, options: UnpackOptions): Promise<void> {
  const { into, scratch, owners } = options;
  const tar = ['tar', '--extract', '--file=-', '--numeric-owner', '--delay-directory-restore'];
  tar.push('--xattrs', '--xattrs-include=user.*', '--xattrs-include=security.capability');
  tar.push('--xattrs-exclude=user.overlay.*', '--preserve-permissions');
  tar.push(owners ? '--same-owner' : '--no-same-owner');
  const enter =
    typeof into === 'string'
      ? ['unshare', '--mount', '--net', '--ipc']
      : ['nsenter', '--mount=/proc/self/fd/4', 'unshare', '--net', '--ipc'];
  const target = typeof into === 'string' ? into : '/proc/self/fd/3';
  const [file = '', ...before] = enter;
  const fds = typeof into === 'string' ? [] : [into.directory, into.space];
  const args = [...before, ...sandboxCommand(), scratch, target, ...tar];
  const child = start(file, args, fds, 'pipe', 'ignore');
  const fed = pipeline(stream, child.stdin as Writable).catch((error: unknown) => error);
  const { status, complaint } = await child.ended;
  const problem = await fed;
  if (!complaint.includes(SANDBOX_READY)) {
    throw failure('cannot make the place to unpack in', status, complaint);
  }
  // tar has its archive's end before the stream's: what comes behind it is for nobody.
  if (status === 0 && (!(problem instanceof Error) || /EPIPE|PREMATURE/.test(errnoOf(problem))))
    return;
  if (problem instanceof Error && !/EPIPE|PREMATURE/.test(errnoOf(problem))) throw problem;
  throw failure('cannot write', status, complaint.replace(SANDBOX_READY, ''));
}

interface Child {
  stdin: Writable | null;
  stdout: Readable | null;
  ended: Promise<{ status: number | null; complaint: string }>;
}

/** Bytes of standard error that are kept. */
const COMPLAINT_LIMIT = 64 * 1024;

/** Starts a program with further descriptors, from 3 on, and none of the user's settings. */
function start(
  file: string,
  args: readonly string[],
  fds: readonly number[],
  stdin: 'pipe' | 'ignore',
  stdout: 'pipe' | 'ignore',
): Child {
  const child = spawn(file, args, {
    cwd: '/',
    env: toolEnvironment(),
    stdio: [stdin, stdout, 'pipe', ...fds],
  });
  let complaint = '';
  child.stderr?.on('data', (chunk: Buffer) => {
    if (complaint.length < COMPLAINT_LIMIT) complaint += chunk.toString();
  });
  const ended = new Promise<{ status: number | null; complaint: string }>((resolve, reject) => {
    child.once('error', (cause) => {
      reject(
        new ClearVMError('ERR_COPY', `cannot run ${file}: ${cause.message}`, {
          cause,
          exitCode: 1,
        }),
      );
    });
    child.once('close', (status) => resolve({ status, complaint }));
  });
  ended.catch(() => {});
  return { stdin: child.stdin, stdout: child.stdout, ended };
}

/** The replacement half of a tar --transform expression that stands for exactly this name. */
export function literal(name: string): string {
  return name.replace(/[\\&|]/g, '\\$&').replaceAll('\n', '\\n');
}

function failure(what: string, status: number | null, complaint: string): ClearVMError {
  const line = complaint.split('\n').find((text) => text !== '' && text !== SANDBOX_READY.trim());
  const why = line?.replace(/^tar: /, '') ?? `tar ended with status ${status ?? 'unknown'}`;
  return new ClearVMError('ERR_COPY', `${what}: ${why}`, { exitCode: 1 });
}
