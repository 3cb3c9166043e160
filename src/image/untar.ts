import { Writable } from 'node:stream';
import { finished } from 'node:stream/promises';

import { execa } from 'execa';

import { isOutside, isRootless, namespaceHelper } from '../user-namespace.js';
import { ImageError } from './errors.js';
import { isMissing, missingTool, toolEnvironment } from './tools.js';

// What tar may still do as root: give files their owners, modes, capabilities and device numbers.
const CAPABILITIES = '-all,+chown,+dac_override,+fowner,+fsetid,+mknod,+setfcap';
const MEMORY_LIMIT_KIB = 1 << 20;
const COMPLAINT_LIMIT = 64 * 1024;
const BLOCK = 512;
/** tar's exit status when it went on after an error. */
const TAR_ERRORS = 2;

/**
 * $1: an empty directory, $2: where to unpack, absolute; the rest is the command, for a mount namespace that is nobody else's. It says
 * SANDBOX_READY on standard error before that. See docs/decisions/image-tar.md.
 */
export const SANDBOX = `set -e
mount --bind / "$1"
mount -o remount,bind,ro,nodev,nosuid "$1"
if mountpoint -q /usr; then
  mount --bind /usr "$1/usr"
  mount -o remount,bind,ro,nodev,nosuid "$1/usr"
fi
mount -t tmpfs -o ro none "$1/proc" # whatever lies below: tar falls back to plain calls only where it is empty
mount --no-canonicalize --bind "$2" "$1/tmp"
mount -o remount,bind,nodev,nosuid "$1/tmp"
ulimit -v ${MEMORY_LIMIT_KIB}
new=$1
shift 2
echo ready >&2
exec chroot "$new" setpriv --no-new-privs --bounding-set=${CAPABILITIES} env -C /tmp "$@"
`;
export const SANDBOX_READY = 'ready\n';

/**
 * The command line that ends in the SANDBOX's arguments. In a user namespace what the host has mounted below / cannot be left out, which
 * mount(8) knows no way with: there `clearvm-userns` makes the same place.
 */
export function sandboxCommand(): string[] {
  const helper = namespaceHelper();
  return helper ? [helper, '--sandbox', '--'] : ['sh', '-c', SANDBOX, 'sandbox'];
}

/** What tar reported. */
export interface TarReport {
  exitCode: number | undefined;
  /** Whether the archive had its end marker (two blocks of zeros). */
  complete: boolean;
  /** Names, as in the archive, whose last component begins with `.wh.`. */
  whiteouts: Buffer[];
  /** The first name that begins with a slash, other than the root itself. */
  absolute: string | undefined;
  /** The beginning of what tar wrote to standard error. */
  complaint: string;
}

export interface TarOptions {
  /** An empty directory: where to unpack. */
  directory: string;
  /** Another empty directory, on which the sandbox is mounted. */
  scratch: string;
  /** Keep owners, modes, xattrs and devices (layers), or unpack plain files (archives of images). */
  attributes: boolean;
  /**
   * Complete the archive with zeros: some builders (umoci's insert) leave out the last padding and the end marker.
   * For archives only whose digest is checked.
   */
  padEnd: boolean;
  signal?: AbortSignal | undefined;
}

/**
 * Starts GNU tar on the archive that is written to `stdin`. The stream swallows what tar no longer wants to read, so
 * that whoever hashes the archive on its way sees all of it.
 *
 * As root, tar runs in a mount namespace in which everything but `directory` is read-only, without network and with
 * few capabilities: its own protection against names that lead outside is the first wall, this is the second.
 */
export function startTar(options: TarOptions): { stdin: Writable; done: Promise<TarReport> } {
  const confined = !isOutside();
  const tar = ['tar', '--extract', '--file=-', '--verbose', '--block-number'];
  tar.push('--quoting-style=escape', '--numeric-owner', '--delay-directory-restore');
  if (options.attributes) {
    // overlayfs's own xattrs are not a layer's to set, and trusted.* has no meaning to a container.
    tar.push('--xattrs', '--xattrs-include=*', '--xattrs-exclude=trusted.*');
    tar.push('--xattrs-exclude=user.overlay.*', '--preserve-permissions');
    if (confined) tar.push('--same-owner');
  } else {
    tar.push('--no-same-owner', '--no-same-permissions');
  }
  const [file, args] = confined
    ? [
        'unshare',
        [
          '--mount',
          '--net',
          '--ipc',
          ...sandboxCommand(),
          options.scratch,
          options.directory,
          ...tar,
        ],
      ]
    : ['tar', tar.slice(1)];
  const child = execa(file, args, {
    cwd: options.directory,
    extendEnv: false,
    env: toolEnvironment(),
    stdin: 'pipe',
    buffer: false,
    encoding: 'buffer',
    reject: false,
    ...(options.signal ? { cancelSignal: options.signal } : {}),
  });
  child.stdin.on('error', () => undefined); // EPIPE: tar has ended; its report says why
  const names = new NameReader();
  child.stdout.on('data', (chunk: Buffer) => names.push(chunk));
  let said = '';
  child.stderr.on('data', (chunk: Buffer) => {
    if (said.length < COMPLAINT_LIMIT) said += chunk.toString();
  });

  // execa's promise does not wait for output that it does not collect itself.
  const read = Promise.allSettled([finished(child.stdout), finished(child.stderr)]);
  const done = child.then(async (result): Promise<TarReport> => {
    await read;
    if (isMissing(result)) throw missingTool(file, result);
    if (result.isCanceled) throw new ImageError('ERR_IMAGE_ABORTED', 'unpacking: aborted');
    if (confined) {
      if (!said.includes(SANDBOX_READY)) {
        throw new ImageError(
          'ERR_LAYER_SANDBOX',
          `cannot make the mount namespace that archives are unpacked in (it takes CAP_SYS_ADMIN): ${said.trim()}`,
        );
      }
      said = said.slice(said.indexOf(SANDBOX_READY) + SANDBOX_READY.length);
    }
    const { exitCode, complaint } = withoutDevices(result.exitCode, said);
    return {
      exitCode,
      complete: names.complete && !complaint.includes('A lone zero block'),
      whiteouts: names.whiteouts,
      absolute: names.absolute,
      complaint,
    };
  });
  done.catch(() => undefined); // the caller awaits it after the pipeline, which may fail first
  return { stdin: new TarInput(child.stdin, options.padEnd), done };
}

/** Nobody but the host's root makes device nodes: in a user namespace, images go without theirs, as with podman. */
function withoutDevices(
  exitCode: number | undefined,
  complaint: string,
): Pick<TarReport, 'exitCode' | 'complaint'> {
  if (exitCode !== TAR_ERRORS || !isRootless() || complaint.length >= COMPLAINT_LIMIT) {
    return { exitCode, complaint };
  }
  const rest = complaint
    .split('\n')
    .filter((line) => !line.endsWith(': Cannot mknod: Operation not permitted'));
  const only = rest.every((line) => line === '' || line.startsWith('tar: Exiting with failure'));
  return { exitCode: only ? 0 : exitCode, complaint: rest.join('\n') };
}

/**
 * The failure that a report amounts to, or undefined. `what` is the subject of the sentence; the codes are those of
 * a layer or of an image archive.
 */
export function tarFailure(
  what: string,
  report: TarReport,
  codes: {
    escape: 'ERR_LAYER_PATH_ESCAPE' | 'ERR_IMAGE_ARCHIVE_ESCAPE';
    format: 'ERR_LAYER_FORMAT' | 'ERR_IMAGE_ARCHIVE_FORMAT';
    other: 'ERR_LAYER_UNPACK' | 'ERR_IMAGE_ARCHIVE_FORMAT';
  },
): ImageError | undefined {
  const { complaint, absolute, exitCode } = report;
  const first = (pattern: RegExp) => complaint.split('\n').find((line) => pattern.test(line));
  const why = (line: string) => line.replace(/^tar: /, '');

  const dots = first(/Member name contains '\.\.'|Removing leading .*\.\..* from/);
  const link = first(/Removing leading .* from hard link targets/);
  // tar makes a file in place of a symbolic link that leads upward or is absolute, until all is unpacked.
  const through = first(/: Not a directory$/);
  const escape = dots ?? link ?? through;
  if (absolute !== undefined || escape !== undefined) {
    const cause =
      dots === undefined && absolute !== undefined
        ? `${absolute} is an absolute name`
        : through !== undefined && escape === through
          ? `${why(through)} (its path passes through a symbolic link or a file)`
          : why(escape ?? '');
    return new ImageError(
      codes.escape,
      `${what} holds a name that leads outside it: ${cause}; do not trust this image`,
    );
  }
  if (exitCode === 0) return undefined;
  const line = first(/does not look like a tar archive|Skipping to next header/);
  if (line) return new ImageError(codes.format, `${what} is not a tar archive, or is damaged`);
  if (first(/Unexpected EOF in archive/)) {
    return new ImageError(
      'ERR_IMAGE_ARCHIVE_TRUNCATED',
      `${what} ends before its end; get it again`,
    );
  }
  // tar tells of a full disk in two ways, the second of which says nothing about disks.
  if (first(/No space left on device|quota exceeded|Wrote only \d+ of/i)) {
    return new ImageError(
      'ERR_IMAGE_NO_SPACE',
      `${what} cannot be unpacked: no space left on the disk; free some and try again`,
    );
  }
  const foreign = first(/Cannot change ownership .*: Invalid argument/);
  if (foreign && isRootless()) {
    return new ImageError(
      codes.other,
      `${what} cannot be unpacked: ${why(foreign)}: this user has no such id to give away; \`clearvm doctor\` says more`,
    );
  }
  const shown = complaint.split('\n').find((text) => text !== '' && !/Ignoring unknown/.test(text));
  return new ImageError(
    codes.other,
    `${what} cannot be unpacked: ${why(shown ?? `tar ended with status ${exitCode ?? 'unknown'}`)}`,
  );
}

/** Writes to tar as long as it reads, and drops the rest. */
class TarInput extends Writable {
  #open = true;

  #size = 0;

  constructor(
    private readonly target: Writable,
    private readonly padEnd: boolean,
  ) {
    super({ highWaterMark: 1 << 20 });
    target.once('close', () => (this.#open = false));
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: () => void): void {
    this.#size += chunk.length;
    if (!this.#open) callback();
    else this.target.write(chunk, () => callback());
  }

  override _final(callback: () => void): void {
    if (!this.#open) {
      callback();
      return;
    }
    const padding = this.padEnd ? ((BLOCK - (this.#size % BLOCK)) % BLOCK) + 2 * BLOCK : 0;
    this.target.end(Buffer.alloc(padding), () => callback());
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    this.target.destroy();
    callback(error);
  }
}

/** Reads `tar --verbose --block-number --quoting-style=escape`: lines of `block N: name`. */
class NameReader {
  readonly whiteouts: Buffer[] = [];
  complete = false;
  absolute: string | undefined;
  #partial = '';

  push(chunk: Buffer): void {
    // Escaped names are ASCII.
    const lines = (this.#partial + chunk.toString('latin1')).split('\n');
    this.#partial = lines.pop() ?? '';
    for (const line of lines) this.#line(line);
  }

  #line(line: string): void {
    const colon = line.indexOf(': ');
    if (!line.startsWith('block ') || colon < 0) return;
    const name = line.slice(colon + 2);
    // A file may be called that; without the real marker another line ("** End of File **") follows.
    this.complete = name === '** Block of NULs **';
    if (this.complete) return;
    if (name.startsWith('/') && this.absolute === undefined && !/^\/[./]*$/.test(name)) {
      this.absolute = name;
    }
    const end = name.endsWith('/') ? name.length - 1 : name.length;
    if (name.startsWith('.wh.', name.lastIndexOf('/', end - 1) + 1)) {
      this.whiteouts.push(unescape(name.slice(0, end)));
    }
  }
}

const ESCAPES: Record<string, string> = {
  a: '\x07',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
  v: '\v',
};

function unescape(name: string): Buffer {
  const text = name.replace(/\\([0-7]{3}|.)/g, (_, escaped: string) =>
    escaped.length === 3
      ? String.fromCharCode(parseInt(escaped, 8))
      : (ESCAPES[escaped] ?? escaped),
  );
  return Buffer.from(text, 'latin1');
}
