/** Volumes as docker's -v takes them: src:dst[:ro]. */
import { mkdirSync, realpathSync, statSync } from 'node:fs';
import path from 'node:path';

import { ClearVMError, errnoOf, messageOf } from '../errors.js';

export interface VolumeOptions {
  /** A directory or file on the host; relative paths count from the working directory. Made (a directory) where it is missing. */
  source: string;
  /** Absolute path in the container. */
  target: string;
  readOnly?: boolean;
}

export interface Volume {
  /** Absolute, symbolic links resolved. */
  source: string;
  /** Absolute, without `..` and doubled slashes. */
  target: string;
  readOnly: boolean;
  /** The source is a regular file. */
  file: boolean;
}

/** Mount options of docker's that say nothing on a VM of one's own: it has no SELinux labels, and nobody to propagate to. */
const EMPTY_OPTIONS = new Set([
  'rw',
  'z',
  'Z',
  'private',
  'rprivate',
  'consistent',
  'cached',
  'delegated',
]);

/** Takes `src:dst[:options]` apart. Errors: ERR_VOLUME. */
export function parseVolume(text: string): VolumeOptions {
  const parts = text.split(':');
  const fail = (why: string): never => {
    throw new ClearVMError('ERR_VOLUME', `volume ${JSON.stringify(text)}: ${why}`, {
      field: 'volumes',
    });
  };
  if (parts.length > 3) fail('too many colons; the form is SOURCE:TARGET[:ro]');
  const [source = '', target, options] = parts;
  if (target === undefined) {
    fail('anonymous volumes are not there yet; give a source directory: SOURCE:TARGET[:ro]');
  }
  if (source === '') fail('the source is empty; the form is SOURCE:TARGET[:ro]');
  if (!/^[./]/.test(source)) {
    fail(
      source.includes('/')
        ? `a relative source begins with ./; write ./${source}:${target}`
        : `named volumes are not there yet; for a directory called ${source} write ./${source}:${target}`,
    );
  }
  let readOnly = false;
  for (const option of options === undefined ? [] : options.split(',')) {
    if (option === 'ro') readOnly = true;
    else if (!EMPTY_OPTIONS.has(option)) {
      fail(`the option ${JSON.stringify(option)} is not supported; ro and rw are`);
    }
  }
  return { source, target: target as string, readOnly };
}

/**
 * Checks volumes and finds their sources; missing ones are made, as directories, as `docker run -v` does.
 * Errors: ERR_VOLUME.
 */
export function resolveVolumes(volumes: readonly VolumeOptions[], cwd: string): Volume[] {
  const targets = new Set<string>();
  return volumes.map((options) => {
    const shown = `${options.source}:${options.target}`;
    const fail = (why: string, cause?: unknown): never => {
      throw new ClearVMError('ERR_VOLUME', `volume ${JSON.stringify(shown)}: ${why}`, {
        cause,
        field: 'volumes',
      });
    };
    if (shown.includes('\0')) fail('a NUL byte');
    if (!options.target.startsWith('/')) {
      fail(
        `the target ${JSON.stringify(options.target)} must be an absolute path in the container`,
      );
    }
    const target = path.posix.normalize(options.target).replace(/(?<=.)\/+$/, '');
    if (target === '/') fail('the target cannot be /: the image is there');
    if (targets.has(target)) fail(`${target} is mounted twice`);
    targets.add(target);

    let source = path.resolve(cwd, options.source);
    try {
      source = realSource(source);
      const stat = statSync(source);
      if (!stat.isDirectory() && !stat.isFile()) {
        fail('the source is neither a directory nor a regular file');
      }
      return { source, target, readOnly: options.readOnly ?? false, file: stat.isFile() };
    } catch (error) {
      if (error instanceof ClearVMError) throw error;
      return fail(`cannot use the source: ${messageOf(error)}`, error);
    }
  });
}

function realSource(source: string): string {
  try {
    return realpathSync(source);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw error;
    mkdirSync(source, { recursive: true });
    return realpathSync(source);
  }
}
