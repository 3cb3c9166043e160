import path from 'node:path';

import { Catalog, notFound, referencesOf } from './catalog.js';
import { Layout, type ImageRecord } from './layout.js';
import type {
  Descriptor,
  ImageDetails,
  ImageSource,
  ImageStoreOptions,
  ImageSummary,
  ImportOptions,
  LoadOptions,
  ProgressListener,
  RemovedImages,
  RemoveOptions,
  ResolvedImage,
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

  constructor(options: ImageStoreOptions) {
    this.root = path.resolve(options.root);
    this.#catalog = new Catalog(new Layout(this.root));
    this.#onProgress = options.onProgress;
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
    return loadImages(this.#catalog, source, this.#withProgress(options));
  }

  /**
   * Makes an image of one layer from the tar of a root file system, as `docker import` does.
   *
   * @throws ImageError ERR_IMAGE_CHANGE, ERR_IMAGE_SOURCE, ERR_IMAGE_ARCHIVE_TRUNCATED, ERR_LAYER_*, ...
   */
  async import(source: ImageSource, options: ImportOptions = {}): Promise<ImageSummary> {
    const { importImage } = await operations();
    return importImage(this.#catalog, source, this.#withProgress(options));
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
    return removeImage(this.#catalog, reference, options);
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
