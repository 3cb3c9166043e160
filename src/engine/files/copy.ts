/** Copies between this host and a container, by docker's rules for names. */
import {
  closeSync,
  constants,
  lstatSync,
  mkdirSync,
  openSync,
  readlinkSync,
  rmSync,
  statSync,
  type Stats,
} from 'node:fs';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { PassThrough, Transform } from 'node:stream';

import { ClearVMError, errnoOf, messageOf } from '../../errors.js';
import { randomBytes } from '../host.js';
import { literal, pack, unpack, type Packed, type UnpackOptions } from './tar.js';
import { O_PATH, openView, tellGuest, type FileView, type ViewPlace } from './view.js';

/** How files are copied. */
export interface CopyOptions {
  /** Copy what a symbolic link at the source leads to, not the link. */
  followLink?: boolean;
  /** Keep owners. Otherwise what is copied is root's in the container, and this user's on the host. */
  archive?: boolean;
}

/** Links on the way to a destination, at most, as Linux has it. */
const MOST_LINKS = 40;

const parent = (file: string): string => path.posix.dirname(file.replace(/\/+$/, '') || '/');
const base = (file: string): string => path.posix.basename(file.replace(/\/+$/, ''));
/** docker's way to say: what is in it. */
const contentsOnly = (file: string): boolean => /(^|\/)\.$/.test(file) || /^\/*$/.test(file);

function fail(message: string, cause?: unknown): never {
  throw new ClearVMError('ERR_COPY', message, { exitCode: 1, cause });
}

function missing(file: string, { record }: ViewPlace): never {
  throw new ClearVMError(
    'ERR_CONTAINER_PATH_NOT_FOUND',
    `Could not find the file ${file} in container ${record.name}`,
    { exitCode: 1 },
  );
}

/** One end of a copy that has been looked at. */
interface Source {
  directory: boolean;
  name: string;
  /** `rename`: the name in the archive; '' for what is in a directory. `root`: owners do not go with it. */
  pack(rename: string, root: boolean): Packed;
  close(): void;
}

/** Errors: ERR_CONTAINER_PATH_NOT_FOUND, ERR_CONTAINER_PATH. */
function containerSource(view: FileView, place: ViewPlace, given: string, follow: boolean): Source {
  const file = path.posix.join('/', given);
  const trailing = /\/\.?$/.test(given);
  const stats = view.stat(given, follow || trailing) ?? missing(given, place);
  return openSource(
    stats,
    base(file),
    (flags) => view.open(given, flags) ?? missing(given, place),
    () => view.open(parent(file), O_PATH | constants.O_DIRECTORY) ?? missing(given, place),
  );
}

/** Errors: ERR_COPY. */
function hostSource(given: string, follow: boolean): Source {
  const file = path.resolve(given);
  let stats: Stats;
  try {
    stats = follow || /\/\.?$/.test(given) ? statSync(given) : lstatSync(given);
  } catch (cause) {
    return fail(
      errnoOf(cause) === 'ENOENT' ? `lstat ${given}: no such file or directory` : messageOf(cause),
      cause,
    );
  }
  if (given.endsWith('/') && !stats.isDirectory()) fail(`${given}: not a directory`);
  return openSource(
    stats,
    path.basename(file),
    (flags) => openSync(file, flags),
    () => openSync(path.dirname(file), O_PATH | constants.O_DIRECTORY),
  );
}

function openSource(
  stats: Stats,
  name: string,
  open: (flags: number) => number,
  openParent: () => number,
): Source {
  const directory = stats.isDirectory();
  // What a name leads to is opened once: nobody can put something else in its place.
  const byFd = directory || stats.isFile();
  const fd = byFd ? open(O_PATH) : openParent();
  return {
    directory,
    name,
    pack: (rename, root) => {
      const common = { directory: fd, root };
      if (directory) {
        const transform = rename === '' ? {} : { transform: `s|^\\.|${literal(rename)}|S` };
        return pack({ ...common, names: ['.'], ...transform });
      }
      const transform = `s|.*|${literal(rename)}|S`;
      if (!byFd) return pack({ ...common, names: [`./${name}`], transform });
      // A regular file: its descriptor, as a file of the directory of descriptors.
      return pack({ ...common, file: true, names: [], transform });
    },
    close: () => closeSync(fd),
  };
}

/** Where a copy goes: into this open directory; '' for `name`: its contents. */
interface Target {
  directory: number;
  name: string;
}

/** Finds it in the container, or makes it. Errors: ERR_CONTAINER_PATH_NOT_FOUND, ERR_COPY. */
function containerTarget(
  view: FileView,
  place: ViewPlace,
  given: string,
  source: Pick<Source, 'directory' | 'name'>,
  contents: boolean,
): Target {
  const DIRECTORY = O_PATH | constants.O_DIRECTORY;
  let file = path.posix.join('/', given);
  for (let links = 0; ; links++) {
    const stats = view.stat(file.replace(/\/+$/, '') || '/', false);
    if (!stats?.isSymbolicLink()) break;
    if (links === MOST_LINKS) fail(`${given}: too many levels of symbolic links`);
    const above = view.open(parent(file), DIRECTORY) ?? missing(given, place);
    file = path.posix.resolve(parent(file), readLinkIn(above, base(file)));
  }
  const stats = view.stat(file, true);
  const within = (directory: number): Target => {
    if (!source.directory) return { directory, name: source.name };
    if (contents) return { directory, name: '' };
    return { directory: makeDirectory(view, directory, source.name), name: '' };
  };
  if (stats?.isDirectory()) return within(view.open(file, DIRECTORY) ?? missing(given, place));
  if (stats && source.directory) fail('cannot copy directory');
  if (given.endsWith('/') && !source.directory) {
    if (stats) fail(`extraction point is not a directory`);
    missing(given, place);
  }
  const directory = view.open(parent(file), DIRECTORY) ?? missing(parent(given), place);
  if (!source.directory) return { directory, name: base(file) };
  return { directory: makeDirectory(view, directory, base(file)), name: '' };
}

/** Where a symbolic link in an open directory leads; closes the directory. */
function readLinkIn(directory: number, name: string): string {
  try {
    return readlinkSync(`/proc/self/fd/${directory}/${name}`);
  } finally {
    closeSync(directory);
  }
}

/** Makes a directory in an open one, unless it is there; closes the one, returns the other. */
function makeDirectory(view: FileView, directory: number, name: string): number {
  try {
    try {
      mkdirSync(`/proc/self/fd/${directory}/${name}`, { mode: 0o755 });
    } catch (error) {
      if (errnoOf(error) !== 'EEXIST') throw error;
    }
    const flags = O_PATH | constants.O_DIRECTORY | constants.O_NOFOLLOW;
    return view.open(name, flags, directory) ?? fail(`${name}: it was removed meanwhile`);
  } catch (error) {
    if (error instanceof ClearVMError) throw error;
    return fail(`cannot make the directory ${name}: ${messageOf(error)}`, error);
  } finally {
    closeSync(directory);
  }
}

/** The same on the host: a path. Errors: ERR_COPY. */
function hostTarget(
  given: string,
  source: Pick<Source, 'directory' | 'name'>,
  contents: boolean,
): { path: string; name: string } {
  const file = path.resolve(given);
  const stats = statSync(file, { throwIfNoEntry: false });
  const made = (directory: string): { path: string; name: string } => {
    if (!statSync(path.dirname(directory), { throwIfNoEntry: false })?.isDirectory()) {
      fail(
        `invalid output path: directory ${JSON.stringify(path.dirname(directory))} does not exist`,
      );
    }
    mkdirSync(directory, { recursive: true });
    return { path: directory, name: '' };
  };
  if (stats?.isDirectory()) {
    if (!source.directory) return { path: file, name: source.name };
    return contents ? { path: file, name: '' } : made(path.join(file, source.name));
  }
  if (source.directory) {
    if (stats) fail('cannot copy directory');
    return made(file);
  }
  if (given.endsWith('/'))
    fail(`destination directory ${given} does not exist or is not a directory`);
  const directory = path.dirname(file);
  if (!statSync(directory, { throwIfNoEntry: false })?.isDirectory()) {
    fail(`invalid output path: directory ${JSON.stringify(directory)} does not exist`);
  }
  return { path: directory, name: path.basename(file) };
}

/** Counts what goes through. */
class Counter extends Transform {
  bytes = 0;
  override _transform(
    chunk: Buffer,
    _encoding: BufferEncoding,
    done: (error: null, chunk: Buffer) => void,
  ): void {
    this.bytes += chunk.length;
    done(null, chunk);
  }
}

async function transfer({ stream, done }: Packed, to: UnpackOptions): Promise<number> {
  const counter = new Counter();
  stream.once('error', (error) => counter.destroy(error));
  stream.pipe(counter);
  const [unpacked, packed] = await Promise.allSettled([unpack(counter, to), done]);
  // What cannot be read explains what was not written.
  for (const each of [packed, unpacked]) if (each.status === 'rejected') throw each.reason;
  return counter.bytes;
}

/** Runs with an empty directory that is removed afterwards. */
async function withScratch<T>(place: ViewPlace, act: (scratch: string) => Promise<T>): Promise<T> {
  const scratch = `${place.directory}/scratch-${randomBytes(8).toString('hex')}`;
  mkdirSync(scratch, { mode: 0o700, recursive: true });
  try {
    return await act(scratch);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** Copies out of a container; returns how many bytes the archive between them had. Errors: ERR_COPY, ERR_CONTAINER_PATH_NOT_FOUND, those of `openView`. */
export async function copyOut(
  place: ViewPlace,
  from: string,
  to: string,
  options: CopyOptions,
): Promise<number> {
  using view = await openView(place, { volumes: true });
  const source = containerSource(view, place, from, options.followLink ?? false);
  try {
    const target = hostTarget(to, source, contentsOnly(from));
    return await withScratch(place, (scratch) =>
      transfer(source.pack(target.name, false), {
        into: target.path,
        scratch,
        owners: options.archive ?? false,
      }),
    );
  } finally {
    source.close();
  }
}

/** The tar archive of a file or directory in a container. Errors: as of `copyOut`; those of reading are the stream's. */
export async function readArchive(
  place: ViewPlace,
  from: string,
  options: CopyOptions,
): Promise<Readable> {
  const view = await openView(place, { volumes: true });
  try {
    const source = containerSource(view, place, from, options.followLink ?? false);
    const packed = source.pack(contentsOnly(from) ? '' : source.name, false);
    return guarded(packed, () => {
      source.close();
      view.close();
    });
  } catch (error) {
    view.close();
    throw error;
  }
}

/**
 * A stream that ends well only if its tar does; `close` is called at the end in any case. `before`: members in front of it.
 */
export function guarded({ stream, done }: Packed, close: () => void, before?: Buffer): Readable {
  const out = new PassThrough();
  if (before) out.write(before);
  const piped = pipeline(stream, out, { end: false });
  void Promise.all([piped, done])
    .then(() => out.end())
    .catch((error: unknown) => out.destroy(error as Error))
    .finally(close);
  return out;
}

/** Copies into a container; returns bytes as `copyOut` does. Errors: ERR_COPY, ERR_CONTAINER_PATH_NOT_FOUND, those of `openView`. */
export async function copyIn(
  place: ViewPlace,
  from: string,
  to: string,
  options: CopyOptions,
): Promise<number> {
  const source = hostSource(from, options.followLink ?? false);
  try {
    return await write(
      place,
      to,
      (view) => {
        const { directory, name } = containerTarget(view, place, to, source, contentsOnly(from));
        return { directory, packed: () => source.pack(name, !options.archive) };
      },
      true,
    );
  } finally {
    source.close();
  }
}

/** Unpacks a tar archive in a directory of a container. Errors: as of `copyIn`. */
export async function writeArchive(
  place: ViewPlace,
  to: string,
  stream: Readable,
  options: CopyOptions,
): Promise<number> {
  return write(
    place,
    to,
    (view) => {
      const stats = view.stat(to, true) ?? missing(to, place);
      if (!stats.isDirectory()) fail('extraction point is not a directory');
      const directory = view.open(to, O_PATH | constants.O_DIRECTORY) ?? missing(to, place);
      return { directory, packed: () => ({ stream, done: Promise.resolve() }) };
    },
    options.archive ?? true,
  );
}

async function write(
  place: ViewPlace,
  to: string,
  find: (view: FileView) => { directory: number; packed: () => Packed },
  owners: boolean,
): Promise<number> {
  const inVolume = place.record.mounts.some(({ target }) =>
    `${path.posix.join('/', to)}/`.startsWith(`${target}/`),
  );
  if (place.readOnlyRoot && !inVolume) fail('container rootfs is marked read-only');
  using view = await openView(place, { write: true, volumes: true });
  const { directory, packed } = find(view);
  try {
    return await withScratch(place, (scratch) =>
      transfer(packed(), { into: { directory, space: view.space }, scratch, owners }),
    );
  } finally {
    closeSync(directory);
    await tellGuest(place, 'refresh');
  }
}
