/** The name of an image in an index (image-spec, annotations.md); in the store, always normalised. */
export const REF_NAME = 'org.opencontainers.image.ref.name';

/** containerd's and Docker's annotation for the full name, where REF_NAME is only a tag. */
export const CONTAINERD_NAME = 'io.containerd.image.name';

/** The image's id (digest of its config) in the store's index, so that ids are found without opening manifests. */
export const ID_ANNOTATION = 'org.clearvm.image.id';

/** The digest by which a registry has the image of an index entry: that of an index, for images of several platforms. */
export const REPOSITORY_DIGEST = 'org.clearvm.image.repository.digest';
