/** A container's whole file system as an archive, and an image made of what has changed in it. */
import { Readable } from 'node:stream';

import type { ImageRunConfig, ImageStore, ImageSummary } from '../../image/index.js';
import { USER_ANNOTATION, type OciSpec } from '../../vm/spec.js';
import type { ContainerRecord } from '../record.js';
import { setPaused } from '../running-commands.js';
import { isActive, readStatus } from '../record.js';
import { findChanges, type FileChange } from './changes.js';
import { guarded } from './copy.js';
import { pack } from './tar.js';
import { openImageView, openUpperView, openView, type FileView, type ViewPlace } from './view.js';
import { whiteouts } from './whiteouts.js';

/** How an image is made of a container. */
export interface CommitContainerOptions {
  /** `repository[:tag]`; without it the image has an id only. */
  name?: string;
  author?: string;
  message?: string;
  /** Dockerfile instructions. */
  changes?: string[];
  /** Pause the container meanwhile; true unless given. */
  pause?: boolean;
  signal?: AbortSignal;
}

/** What has changed. Errors: those of `openView`. */
export async function containerChanges(place: ViewPlace): Promise<FileChange[]> {
  using merged = await openView(place);
  return changesIn(place, merged);
}

function changesIn(place: ViewPlace, merged: FileView): FileChange[] {
  using lower = openImageView(place);
  using upper = openUpperView(place);
  return [...findChanges(upper, merged, lower)];
}

/** The tar archive of all its files, volumes not included. Errors: as of `containerChanges`; those of reading are the stream's. */
export async function exportContainer(place: ViewPlace): Promise<Readable> {
  const view = await openView(place);
  const names = (view.list('.') ?? []).sort(Buffer.compare);
  const packed = pack({ directory: view.root, names: [], list: listOf(names), recursive: true });
  return guarded(packed, () => view.close());
}

const NUL = Buffer.from([0]);

function listOf(names: readonly Buffer[]): Readable {
  return Readable.from(names.map((name) => Buffer.concat([name, NUL])));
}

/** Makes an image of it. Errors: the image store's, and those of `openView`. */
export async function commitContainer(
  images: ImageStore,
  place: ViewPlace,
  spec: OciSpec,
  options: CommitContainerOptions,
): Promise<ImageSummary> {
  const { image, args } = place.record;
  const parent = await images.resolve(image.id);
  const config = runConfigOf(place.record, spec, parent.config.config ?? {});
  const { pause = true, ...rest } = options;
  const release = pause ? await hold(place) : async () => {};
  try {
    using merged = await openView(place);
    const changes = changesIn(place, merged);
    const kept = changes.filter(({ kind }) => kind !== 'D').map(({ raw }) => raw);
    const gone = changes.filter(({ kind }) => kind === 'D').map(({ raw }) => raw);
    const packed = pack({ directory: merged.root, names: [], list: listOf(kept) });
    const layer = guarded(packed, () => {}, whiteouts(gone));
    return await images.commit(image.id, layer, { ...rest, config, createdBy: args.join(' ') });
  } finally {
    await release();
  }
}

/** Pauses it where it runs, with everything that it has written on the host; returns what ends that. */
async function hold(place: ViewPlace): Promise<() => Promise<void>> {
  if (readStatus(place.dataDirectory).status !== 'running') return async () => {};
  const { tellGuest } = await import('./view.js');
  await tellGuest(place, 'sync');
  await setPaused(place, true);
  return async () => {
    if (isActive(readStatus(place.dataDirectory).status)) await setPaused(place, false);
  };
}

/** How the container was run, as an image says it: what its options have changed of its image's words. */
export function runConfigOf(
  { args, labels, stopSignal, tty }: ContainerRecord,
  { process, hostname, annotations = {} }: OciSpec,
  image: ImageRunConfig,
): ImageRunConfig {
  const config: ImageRunConfig = { ...image };
  const entrypoint = image.Entrypoint ?? [];
  if (entrypoint.length > 0 && entrypoint.every((word, i) => args[i] === word)) {
    config.Cmd = args.slice(entrypoint.length);
  } else {
    delete config.Entrypoint;
    config.Cmd = [...args];
  }
  // What every container gets is nothing of this one.
  const own = new Set([`HOSTNAME=${hostname ?? ''}`, ...(tty ? ['TERM=xterm'] : [])]);
  config.Env = (process.env ?? []).filter((text) => !own.has(text) || image.Env?.includes(text));
  const user = annotations[USER_ANNOTATION] ?? '';
  if (user !== '') config.User = user;
  if (process.cwd !== '/' || image.WorkingDir) config.WorkingDir = process.cwd;
  if (Object.keys(labels).length > 0) config.Labels = { ...labels };
  if (stopSignal !== undefined) config.StopSignal = stopSignal;
  return config;
}
