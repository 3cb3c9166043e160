/** A container's files, as its methods: running or not. The work is done in files/, which is loaded when it is needed. */
import type { Readable } from 'node:stream';

import type { ImageStore, ImageSummary } from '../image/index.js';
import type { OciSpec } from '../vm/spec.js';
import type { CommitContainerOptions } from './files/archive.js';
import type { FileChange } from './files/changes.js';
import type { CopyOptions } from './files/copy.js';
import type { ViewPlace } from './files/view.js';

export abstract class ContainerFiles {
  protected abstract get place(): ViewPlace;
  protected abstract get images(): ImageStore;
  abstract spec(): OciSpec;

  /**
   * Copies a file or directory out of it to a path of this host, or the other way round, by the rules of `docker cp`: what lies at
   * the destination decides whether a directory is copied as it or into it; a source that ends in `/.` stands for what is in it. Returns
   * the bytes of the archive in between. Errors: ERR_COPY, ERR_CONTAINER_PATH_NOT_FOUND, ERR_CONTAINER_PATH, ERR_VIEW.
   */
  async copyOut(from: string, to: string, options: CopyOptions = {}): Promise<number> {
    return (await import('./files/copy.js')).copyOut(this.place, from, to, options);
  }

  /** The other way, from this host into the container. Returns and errors as of `copyOut`. */
  async copyIn(from: string, to: string, options: CopyOptions = {}): Promise<number> {
    return (await import('./files/copy.js')).copyIn(this.place, from, to, options);
  }

  /** A tar archive of what is at a path in it. Errors: as of `copyOut`; those of reading are the stream's. */
  async readArchive(from: string, options: CopyOptions = {}): Promise<Readable> {
    return (await import('./files/copy.js')).readArchive(this.place, from, options);
  }

  /** Unpacks a tar archive in a directory of it, owners as in the archive unless `archive` is false. Errors: as of `copyIn`. */
  async writeArchive(to: string, stream: Readable, options: CopyOptions = {}): Promise<number> {
    return (await import('./files/copy.js')).writeArchive(this.place, to, stream, options);
  }

  /** What it has changed of its image. Errors: ERR_VIEW. */
  async changes(): Promise<FileChange[]> {
    return (await import('./files/archive.js')).containerChanges(this.place);
  }

  /** A tar archive of its files, without those of volumes. Errors: as of `readArchive`. */
  async export(): Promise<Readable> {
    return (await import('./files/archive.js')).exportContainer(this.place);
  }

  /** Makes an image of it and of how it is run. Errors: the image store's; ERR_VIEW. */
  async commit(options: CommitContainerOptions = {}): Promise<ImageSummary> {
    const { commitContainer } = await import('./files/archive.js');
    return commitContainer(this.images, this.place, this.spec(), options);
  }
}
