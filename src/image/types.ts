import type { Readable } from 'node:stream';

/** A content digest: `sha256:` and 64 lower-case hex digits. */
export type Digest = `sha256:${string}`;

/** An OCI content descriptor (image-spec, descriptor.md). */
export interface Descriptor {
  mediaType: string;
  digest: Digest;
  /** Bytes. */
  size: number;
  annotations?: Record<string, string>;
  platform?: Platform;
  artifactType?: string;
}

/** The platform that a manifest is for (image-spec, image-index.md). */
export interface Platform {
  architecture: string;
  os: string;
  variant?: string;
}

/** An OCI image index, or the index.json of a layout (image-spec, image-index.md). */
export interface ImageIndex {
  schemaVersion: 2;
  mediaType?: string;
  manifests: Descriptor[];
  annotations?: Record<string, string>;
}

/** An OCI image manifest; Docker's schema 2 manifest has the same members (image-spec, manifest.md). */
export interface ImageManifest {
  schemaVersion: 2;
  mediaType?: string;
  artifactType?: string;
  config: Descriptor;
  layers: Descriptor[];
  annotations?: Record<string, string>;
}

/** How an image wants its process to be run: the `config` member of an OCI image config (config.md). */
export interface ImageRunConfig {
  /** `user`, `uid`, `user:group`, `uid:gid` or a mixture. */
  User?: string;
  ExposedPorts?: Record<string, object> | null;
  /** `NAME=value` each. */
  Env?: string[] | null;
  Entrypoint?: string[] | null;
  Cmd?: string[] | null;
  Volumes?: Record<string, object> | null;
  WorkingDir?: string;
  Labels?: Record<string, string> | null;
  /** A signal by name or number. */
  StopSignal?: string;
  OnBuild?: string[] | null;
  Shell?: string[] | null;
  /** Times are nanoseconds. */
  Healthcheck?: {
    Test?: string[];
    Interval?: number;
    Timeout?: number;
    StartPeriod?: number;
    Retries?: number;
  } | null;
}

/** An OCI image config (image-spec, config.md). Members that are not named here are kept in the blob. */
export interface ImageConfig {
  created?: string | null;
  author?: string;
  architecture: string;
  os: string;
  variant?: string;
  config?: ImageRunConfig | null;
  rootfs: { type: 'layers'; diff_ids: Digest[] };
  history?:
    | {
        created?: string | null;
        created_by?: string;
        author?: string;
        comment?: string;
        empty_layer?: boolean;
      }[]
    | null;
}

/** One unpacked layer. */
export interface ResolvedLayer {
  /** Its directory's name in `layersDir`: 26 characters of [a-z2-7], the first 130 bits of the diff id. */
  name: string;
  /** Digest of the uncompressed layer tar. */
  diffId: Digest;
}

/** What is needed to run an image. */
export interface ResolvedImage {
  /** The image id: the digest of its config. */
  id: Digest;
  /** Digest of the manifest. */
  digest: Digest;
  config: ImageConfig;
  /** Absolute path of the directory that holds every unpacked layer. */
  layersDir: string;
  /**
   * The layers to mount, bottom first as in the config; a layer that an image lists twice appears once, where it is
   * topmost, because overlayfs refuses the same directory twice and the lower one cannot show.
   */
  layers: ResolvedLayer[];
  /** The names of `layers`, topmost first: the order of overlayfs's lowerdir and of clearvm-vmm's --overlay. */
  lower: string[];
}

/** One image, as `list` shows it. */
export interface ImageSummary {
  /** The image id: the digest of its config. */
  id: Digest;
  /** Digest of the manifest. */
  digest: Digest;
  /** Familiar names (`debian:12`, not `docker.io/library/debian:12`), sorted; empty for an image without a name. */
  names: string[];
  /** `debian@sha256:...`, as far as the image is known to be in registries, sorted. */
  repositoryDigests: string[];
  /** RFC 3339, as the config has it. */
  created?: string;
  /** Bytes of the uncompressed layer tars. */
  size: number;
  os: string;
  architecture: string;
  labels?: Record<string, string>;
}

/** One image in full. */
export interface ImageDetails extends ImageSummary {
  /** Normalised names (`docker.io/library/debian:12`). */
  references: string[];
  config: ImageConfig;
  manifest: ImageManifest;
  /** Bottom first, as the config lists them. */
  layers: {
    diffId: Digest;
    /** Digest and bytes of the blob, compressed as it came. */
    blob: Digest;
    blobSize: number;
    mediaType: string;
    /** The unpacked directory, absolute. */
    path: string;
  }[];
}

/** How far an operation is. Sent at most every 50 ms per step, and once when the step is done. */
export interface ImageProgress {
  /**
   * `read`: the source archive is being taken apart; `unpack`: a layer's digests are checked and it is unpacked;
   * `sync`: everything is written out to the disk (no byte counts).
   *
   * Of a pull: `resolve`: the registry has the image; `wait`: another process is pulling it; `download`, then `unpack`: a
   * layer; `exists`: a layer is in the store already. Of a push: `upload`; `exists`; `mount`: a layer was taken from
   * another repository of the registry.
   */
  step:
    'read' | 'unpack' | 'sync' | 'resolve' | 'wait' | 'download' | 'upload' | 'exists' | 'mount';
  /** What the step works on: a path, a name, a shortened layer digest; for `mount` "DIGEST from REPOSITORY". */
  subject: string;
  /** Bytes done. */
  done: number;
  /** Bytes in all; not known for streams. */
  total?: number;
  finished: boolean;
}

/** Hears how far a transfer has come. */
export type ProgressListener = (progress: ImageProgress) => void;

/** Something has happened to an image. */
export interface ImageEvent {
  action: 'pull' | 'push' | 'load' | 'import' | 'save' | 'tag' | 'untag' | 'delete';
  /** The image id; of `push` and `untag` the name. */
  id: string;
  name?: string;
}

/** Where an image store is, and what it gets images with. */
export interface ImageStoreOptions {
  /** The store's directory; made when it is missing. */
  root: string;
  /** Heard during `load` and `import`. */
  onProgress?: ProgressListener;
  /** Hears of what has been done, when it has been done. */
  onEvent?: (event: ImageEvent) => void;
}

/** How an archive is loaded. */
export interface LoadOptions {
  /**
   * A name for the image, in place of those in the source, which must then hold exactly one image.
   */
  name?: string;
  onProgress?: ProgressListener;
  signal?: AbortSignal;
}

/** How a root file system becomes an image. */
export interface ImportOptions {
  /** `repository[:tag]`; without it the image has an id only. */
  name?: string;
  /** Dockerfile instructions (CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD STOPSIGNAL USER VOLUME WORKDIR). */
  changes?: string[];
  /** Merged over what `changes` makes. */
  config?: ImageRunConfig;
  /** The comment in the image's history. */
  message?: string;
  onProgress?: ProgressListener;
  signal?: AbortSignal;
}

/** What an image gets that is made of another and a layer. */
export interface CommitOptions {
  /** `repository[:tag]`; without it the image has an id only. */
  name?: string;
  /** How the image wants to be run; the parent's unless given. */
  config?: ImageRunConfig;
  /** Dockerfile instructions, applied over `config`. */
  changes?: string[];
  /** The new layer's line in the history: what made it, who, and a comment. */
  createdBy?: string;
  author?: string;
  message?: string;
  onProgress?: ProgressListener;
  signal?: AbortSignal;
}

/** How registries are talked to. */
export interface RegistryOptions {
  /** How often something is tried again, in a row, without getting any further; 5 unless given. */
  retries?: number;
  /** The first pause between tries, ms, which doubles from try to try; 250 unless given. */
  pause?: number;
  /** How long an answer, or its next byte, may take: ms, 60000 unless given. */
  stallTimeout?: number;
  onProgress?: ProgressListener;
  signal?: AbortSignal;
}

/** Credentials for a registry. */
export interface LoginOptions {
  /** `docker.io` unless given. */
  registry?: string;
  username: string;
  /** Or an access token. */
  password: string;
  signal?: AbortSignal;
}

/** What `pull` did. */
export interface PulledImage {
  image: ImageSummary;
  /** Normalised: `docker.io/library/debian:12`. */
  reference: string;
  /** By which the registry has it. */
  digest: Digest;
  /** False: the store had it already, under this name. */
  changed: boolean;
}

/** What `push` did. */
export interface PushedImage {
  /** Normalised. */
  reference: string;
  /** Digest and bytes of the manifest. */
  digest: Digest;
  size: number;
}

/** How an image is removed. */
export interface RemoveOptions {
  /** Remove an image by id although it has several names. */
  force?: boolean;
  /** Ids of images that containers use, asked under the store's lock; they are not removed, only untagged by force. */
  inUse?: () => Iterable<string> | Promise<Iterable<string>>;
}

/** What `remove` did. */
export interface RemovedImages {
  /** Familiar names that are gone. */
  untagged: string[];
  /** Ids of images that are gone. */
  deleted: Digest[];
  /** Blobs and unpacked layers that were deleted because nothing refers to them any more. */
  blobs: number;
  layers: number;
  /** What those blobs and the tars of those layers took. */
  bytes: number;
}

/** How images are saved. */
export interface SaveOptions {
  signal?: AbortSignal;
}

/** Which images are pruned. */
export interface PruneOptions extends Pick<RemoveOptions, 'inUse'> {
  /** Images with names, too, unless a container uses them. */
  all?: boolean;
  /** Only images for which this is true. */
  filter?: (image: ImageSummary) => boolean | Promise<boolean>;
}

/** One line of an image's history. */
export interface HistoryEntry {
  /** Of the image itself; only the newest entry has it. */
  id?: Digest;
  created?: string;
  createdBy: string;
  comment: string;
  /** Bytes of the layer's tar; 0 for an entry without a layer. */
  size: number;
}

/** What images take on the disk. */
export interface ImageUsage {
  images: number;
  /** Those that containers use. */
  active: number;
  /** Bytes of all blobs and of the tars of all unpacked layers. */
  bytes: number;
  /** As many of them as the images have that no container uses. */
  reclaimable: number;
}

/** A path (`-` is not special) or a stream of a tar archive, compressed by gzip, zstd, xz, bzip2 or not at all. */
export type ImageSource = string | Readable;
