/** Volumes as docker's -v takes them: src:dst[:ro]. */
import { mkdirSync, realpathSync, statSync } from 'node:fs';
import path from 'node:path';

import { ClearVMError, errnoOf, messageOf } from '../errors.js';
import type { ImageRunConfig } from '../image/index.js';

/** A mount, as `-v` and `--mount` say it. */
export interface VolumeOptions {
  /** `volume`: `source` is the name of a volume, '' for one of the container's own. `bind` unless given. */
  type?: 'bind' | 'volume';
  /** A directory or file on the host; relative paths count from the working directory. Made (a directory) where it is missing. */
  source: string;
  /** Absolute path in the container. */
  target: string;
  readOnly?: boolean;
  /** A path on the host that is missing is not made. */
  mustExist?: boolean;
}

export interface Volume {
  type: 'bind' | 'volume';
  /** A volume's; '' for one that is made for this container. */
  name?: string;
  /** Absolute, symbolic links resolved; '' of a volume, until it is made. */
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
    if (!source.startsWith('/')) fail('the form is SOURCE:TARGET[:ro], or TARGET alone');
    return { type: 'volume', source: '', target: source, readOnly: false };
  }
  if (source === '') fail('the source is empty; the form is SOURCE:TARGET[:ro]');
  const named = !/^[./]/.test(source);
  if (named && source.includes('/')) {
    fail(
      `${JSON.stringify(source)} includes invalid characters for a local volume name; a path begins with ./: write ./${source}:${target}`,
    );
  }
  let readOnly = false;
  for (const option of options === undefined ? [] : options.split(',')) {
    if (option === 'ro') readOnly = true;
    else if (!EMPTY_OPTIONS.has(option)) {
      fail(`invalid mode: ${option}; there are ro and rw`);
    }
  }
  return { ...(named ? { type: 'volume' as const } : {}), source, target, readOnly };
}

/** `type=bind|volume,source=…,target=…[,readonly]` of --mount; a tmpfs is one of `parseTmpfs`. Errors: ERR_VOLUME. */
export function parseMount(text: string): VolumeOptions | { tmpfs: string } {
  const fail = (why: string): never => {
    throw new ClearVMError(
      'ERR_VOLUME',
      `invalid argument ${JSON.stringify(text)} for "--mount": ${why}`,
      {
        field: 'volumes',
      },
    );
  };
  const fields = new Map<string, string>();
  for (const field of text.split(',')) {
    const [, name = '', value = ''] = /^([^=]*)(?:=(.*))?$/s.exec(field) ?? [];
    const long =
      { src: 'source', dst: 'target', destination: 'target', ro: 'readonly' }[name] ?? name;
    fields.set(long, value);
  }
  const take = (name: string): string | undefined => {
    const value = fields.get(name);
    fields.delete(name);
    return value;
  };
  const type = take('type') ?? 'volume';
  const target = take('target') ?? fail('target is required');
  const readOnlyText = take('readonly');
  const readOnly = readOnlyText !== undefined && !/^(0|false)$/i.test(readOnlyText);
  const source = take('source') ?? '';
  if (type === 'tmpfs') {
    const options = [
      ['size', take('tmpfs-size')],
      ['mode', take('tmpfs-mode')],
    ]
      .filter(([, value]) => value !== undefined)
      .map(([name, value]) => `${name}=${value}`);
    if (readOnly) options.push('ro');
    for (const name of fields.keys()) fail(`unexpected key '${name}'`);
    return { tmpfs: [target, options.join(',')].filter(Boolean).join(':') };
  }
  if (type !== 'bind' && type !== 'volume') fail(`mount type unknown: "${type}"`);
  for (const name of ['bind-propagation', 'consistency', 'volume-nocopy']) take(name);
  for (const name of fields.keys()) fail(`unexpected key '${name}'`);
  if (type === 'volume') return { type, source, target, readOnly };
  if (!source.startsWith('/') && !source.startsWith('.')) fail('source is required, and is a path');
  return { type: 'bind', source, target, readOnly, mustExist: true };
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
    const target = normalTarget(options.target);
    if (target === '/') fail('the target cannot be /: the image is there');
    if (targets.has(target)) fail(`Duplicate mount point: ${target}`);
    targets.add(target);

    const readOnly = options.readOnly ?? false;
    if (options.type === 'volume') {
      return { type: 'volume', name: options.source, source: '', target, readOnly, file: false };
    }
    let source = path.resolve(cwd, options.source);
    try {
      source = options.mustExist ? realpathSync(source) : realSource(source);
      const stat = statSync(source);
      if (!stat.isDirectory() && !stat.isFile()) {
        fail('the source is neither a directory nor a regular file');
      }
      return { type: 'bind', source, target, readOnly, file: stat.isFile() };
    } catch (error) {
      if (error instanceof ClearVMError) throw error;
      if (errnoOf(error) === 'ENOENT') return fail(`bind source path does not exist: ${source}`);
      return fail(`cannot use the source: ${messageOf(error)}`, error);
    }
  });
}

/** The image's `VOLUME`s in whose places nothing else was asked for: a volume of the container's own for each. */
export function imageVolumes(
  image: Pick<ImageRunConfig, 'Volumes'>,
  volumes: readonly Pick<Volume, 'target'>[],
  tmpfs: readonly string[] = [],
): Volume[] {
  const taken = new Set([
    ...volumes.map(({ target }) => target),
    ...tmpfs.map((text) => normalTarget(text.replace(/:.*$/s, ''))),
  ]);
  const targets = new Set(Object.keys(image.Volumes ?? {}).map((path) => normalTarget(`/${path}`)));
  return [...targets]
    .filter((target) => target !== '/' && !taken.has(target))
    .sort()
    .map((target) => ({
      ...{ type: 'volume', name: '', source: '', target },
      ...{ readOnly: false, file: false },
    }));
}

function normalTarget(text: string): string {
  return path.posix.normalize(text).replace(/(?<=.)\/+$/, '');
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
