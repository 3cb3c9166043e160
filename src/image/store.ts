import path from 'node:path';
import type { Readable, Writable } from 'node:stream';

import { Catalog, notFound, referencesOf } from './catalog.js';
import { Layout, type ImageRecord } from './layout.js';
import { familiarName, parseReference } from './reference.js';
import type {
  CommitOptions,
  Descriptor,
  HistoryEntry,
  ImageDetails,
  ImageEvent,
  ImageSource,
  ImageStoreOptions,
  ImageSummary,
  ImageUsage,
  ImportOptions,
  LoadOptions,
  LoginOptions,
  ProgressListener,
  PruneOptions,
  PulledImage,
  PushedImage,
  RegistryOptions,
  RemovedImages,
  RemoveOptions,
  ResolvedImage,
  SaveOptions,
} from './types.js';

/**
 * Images on disk: an OCI image layout, and its layers unpacked, ready to be mounted. Several processes may use one
 * store at the same time; a load or import is seen whole or not at all, whenever its process dies.
 *
 * Nothing is opened or locked before a method is called. Every failure is an ImageError.
 */
export class ImageStore {
  readonly root: string;
  readonly #catalog: Catalog;
  readonly #onProgress: ProgressListener | undefined;
  readonly #onEvent: (event: ImageEvent) => void;

  constructor(options: ImageStoreOptions) {
    this.root = path.resolve(options.root);
    this.#catalog = new Catalog(new Layout(this.root));
    this.#onProgress = options.onProgress;
    this.#onEvent = options.onEvent ?? (() => {});
  }

  /**
   * Loads every image for linux/amd64 of an archive made by `docker save` (or podman, skopeo, ...), of an OCI archive
   * or of an OCI layout directory. An image that the store has already is checked again and gets the names.
   *
   * @returns the images of the source, as they are in the store afterwards
   * @throws ImageError ERR_IMAGE_SOURCE, ERR_IMAGE_ARCHIVE_*, ERR_IMAGE_DIGEST_MISMATCH, ERR_LAYER_*, ...
   */
  async load(source: ImageSource, options: LoadOptions = {}): Promise<ImageSummary[]> {
    const { loadImages } = await operations();
    const images = await loadImages(this.#catalog, source, this.#withProgress(options));
    for (const image of images) this.#note('load', image);
    return images;
  }

  /**
   * Makes an image of one layer from the tar of a root file system, as `docker import` does.
   *
   * @throws ImageError ERR_IMAGE_CHANGE, ERR_IMAGE_SOURCE, ERR_IMAGE_ARCHIVE_TRUNCATED, ERR_LAYER_*, ...
   */
  async import(source: ImageSource, options: ImportOptions = {}): Promise<ImageSummary> {
    const { importImage } = await operations();
    const image = await importImage(this.#catalog, source, this.#withProgress(options));
    this.#note('import', image);
    return image;
  }

  /**
   * Makes an image of another one and a further layer: the tar of what has changed, whiteouts included.
   *
   * @throws ImageError those of `resolve` and `import`; ERR_IMAGE_TOO_MANY_LAYERS
   */
  async commit(
    parent: string,
    layer: Readable,
    options: CommitOptions = {},
  ): Promise<ImageSummary> {
    const { commitImage } = await import('./commit.js');
    const image = await commitImage(this.#catalog, parent, layer, this.#withProgress(options));
    if (image.names.length > 0) this.#note('tag', image);
    return image;
  }

  /** Every image, by name, those without a name last. */
  async list(): Promise<ImageSummary[]> {
    return this.#catalog.list();
  }

  /**
   * What is needed to run an image: two small files are read. An image whose unpacked layers or record are missing
   * is made whole from its blobs first.
   *
   * @param reference a name, an id, or at least four digits of an id
   * @throws ImageError ERR_IMAGE_NOT_FOUND, ERR_IMAGE_AMBIGUOUS, ERR_IMAGE_REFERENCE, ERR_IMAGE_STORE
   */
  async resolve(reference: string): Promise<ResolvedImage> {
    const { entries } = await this.#catalog.find(reference);
    const record = await this.#record(entries[0]);
    const layers = record.mounts.flatMap((i) => {
      const layer = record.layers[i];
      return layer ? [{ name: layer.name, diffId: layer.diffId }] : [];
    });
    return {
      id: record.id,
      digest: record.digest,
      config: record.config,
      layersDir: this.#catalog.layout.layers,
      layers,
      lower: layers.map((layer) => layer.name).reverse(),
    };
  }

  /**
   * Whether a resolved image is still there: whoever has said that it uses it (`RemoveOptions.inUse`) may rely on it from then on.
   *
   * @throws ImageError ERR_IMAGE_NOT_FOUND, ERR_IMAGE_STORE
   */
  confirm({ id, digest }: ResolvedImage): void {
    const { manifests } = this.#catalog.layout.readIndex();
    if (!manifests.some((entry) => entry.digest === digest)) throw notFound(id);
  }

  /** Everything that is known of an image. Throws what `resolve` throws. */
  async inspect(reference: string): Promise<ImageDetails> {
    const { entries } = await this.#catalog.find(reference);
    const record = await this.#record(entries[0]);
    const all: Descriptor[] = [];
    for (const entry of this.#catalog.layout.readIndex().manifests) {
      if ((await this.#catalog.idOf(entry)) === record.id) all.push(entry);
    }
    const summary = await this.#catalog.summary(record.id, all);
    const manifest = await this.#catalog.readBlob(record.digest);
    const { parseManifest } = await import('./json.js');
    return {
      ...summary,
      references: referencesOf(all),
      config: record.config,
      manifest: parseManifest(`the manifest ${record.digest}`, manifest),
      layers: record.layers.map(({ name, ...layer }) => ({
        ...layer,
        path: this.#catalog.layout.layerPath(name),
      })),
    };
  }

  /**
   * Takes a name from an image, or removes an image by its id or the beginning of it. An image without a name left
   * goes, and with it every blob and layer that no other image has.
   *
   * @throws ImageError ERR_IMAGE_NOT_FOUND, ERR_IMAGE_AMBIGUOUS, ERR_IMAGE_IN_USE, ...
   */
  async remove(reference: string, options: RemoveOptions = {}): Promise<RemovedImages> {
    const { removeImage } = await operations();
    return this.#noteRemoved(await removeImage(this.#catalog, reference, options));
  }

  /**
   * Gets an image from its registry, for linux/amd64. What the store has is not fetched again, what another process is
   * pulling is waited for, and what an earlier pull has verified before it was interrupted is used.
   *
   * @param reference `debian`, `debian:12`, `ghcr.io/a/b@sha256:...`
   * @throws ImageError ERR_REGISTRY_*, ERR_IMAGE_REFERENCE, ERR_IMAGE_MANIFEST, ERR_IMAGE_CONFIG, ERR_IMAGE_PLATFORM,
   *   ERR_IMAGE_DIGEST_MISMATCH, ERR_LAYER_*, ERR_IMAGE_NO_SPACE, ERR_IMAGE_ABORTED, ...
   */
  async pull(reference: string, options: RegistryOptions = {}): Promise<PulledImage> {
    const { pullImage } = await import('./registry/pull.js');
    const pulled = await pullImage(this.#catalog, reference, this.#withProgress(options));
    this.#onEvent({
      action: 'pull',
      id: pulled.image.id,
      name: familiarName(parseReference(pulled.reference)),
    });
    return pulled;
  }

  /**
   * Puts an image into the registry that its name says, as it is in the store: the digests stay.
   *
   * @throws ImageError ERR_REGISTRY_*, ERR_IMAGE_REFERENCE, ERR_IMAGE_NOT_FOUND, ERR_IMAGE_DIGEST_MISMATCH, ...
   */
  async push(reference: string, options: RegistryOptions = {}): Promise<PushedImage> {
    const { pushImage } = await import('./registry/push.js');
    const pushed = await pushImage(this.#catalog, reference, this.#withProgress(options));
    const name = familiarName(parseReference(pushed.reference));
    this.#onEvent({ action: 'push', id: name, name });
    return pushed;
  }

  /**
   * Checks a login with a registry, and keeps it where docker would: with a credential helper, or in config.json.
   *
   * @returns the file that holds the password unencrypted, or undefined where a helper took it
   * @throws ImageError ERR_REGISTRY_UNAUTHORIZED, ERR_REGISTRY_*, ERR_IMAGE_ABORTED
   */
  async login(options: LoginOptions): Promise<string | undefined> {
    const { loginToRegistry } = await import('./registry/login.js');
    return loginToRegistry(options);
  }

  /**
   * Forgets the login for a registry (`docker.io` unless given).
   *
   * @returns whether there was one
   * @throws ImageError ERR_REGISTRY_CONFIG, ERR_REGISTRY_CREDENTIALS
   */
  async logout(registry?: string): Promise<boolean> {
    const { logoutOfRegistry } = await import('./registry/login.js');
    return logoutOfRegistry(registry);
  }

  /** Gives an image another name. Throws what `resolve` throws. */
  async tag(source: string, target: string): Promise<void> {
    const { tagImage } = await import('./manage.js');
    await tagImage(this.#catalog, source, target);
    const { entries } = await this.#catalog.find(target);
    this.#onEvent({ action: 'tag', id: await this.#catalog.idOf(entries[0]), name: target });
  }

  /**
   * Writes images into an archive that is an OCI layout and a docker archive at once.
   *
   * @param target a path, whose file appears when it is whole, or a stream, which is ended unless it is stdout
   * @throws ImageError ERR_IMAGE_NOT_FOUND, ERR_IMAGE_SOURCE, ERR_IMAGE_NO_SPACE, ERR_IMAGE_ABORTED, ...
   */
  async save(
    references: string[],
    target: string | Writable,
    options: SaveOptions = {},
  ): Promise<void> {
    const { saveImages } = await import('./save.js');
    return saveImages(this.#catalog, references, target, options);
  }

  /** How an image was made, newest step first. Throws what `resolve` throws. */
  async history(reference: string): Promise<HistoryEntry[]> {
    const { historyOf } = await import('./manage.js');
    const { entries } = await this.#catalog.find(reference);
    return historyOf(this.#catalog, await this.#record(entries[0]));
  }

  /** Removes images that have no name and that no container uses, and what interrupted pulls have left. */
  async prune(options: PruneOptions = {}): Promise<RemovedImages> {
    const { pruneImages } = await import('./manage.js');
    return this.#noteRemoved(await pruneImages(this.#catalog, options));
  }

  /** What images take on the disk; `inUse`: ids of images that containers use. */
  async usage(inUse: Iterable<string> = []): Promise<ImageUsage> {
    const { imageUsage } = await import('./manage.js');
    return imageUsage(this.#catalog, inUse);
  }

  #note(action: ImageEvent['action'], { id, names }: ImageSummary): void {
    const [name] = names;
    this.#onEvent({ action, id, ...(name === undefined ? {} : { name }) });
  }

  #noteRemoved(removed: RemovedImages): RemovedImages {
    for (const name of removed.untagged) this.#onEvent({ action: 'untag', id: name, name });
    for (const id of removed.deleted) this.#onEvent({ action: 'delete', id });
    return removed;
  }

  async #record(entry: Descriptor): Promise<ImageRecord> {
    const record = this.#catalog.layout.readImageRecord(entry.digest);
    if (record) return record;
    const { restoreImage } = await operations();
    await restoreImage(this.#catalog, entry, this.#onProgress);
    const restored = this.#catalog.layout.readImageRecord(entry.digest);
    if (!restored) throw notFound(entry.digest);
    return restored;
  }

  #withProgress<T extends { onProgress?: ProgressListener }>(options: T): T {
    return this.#onProgress ? { onProgress: this.#onProgress, ...options } : options;
  }
}

/** Loaded when it is needed: execa, zlib and schemas are nothing that `resolve` should wait for. */
function operations(): Promise<typeof import('./operations.js')> {
  return import('./operations.js');
}
