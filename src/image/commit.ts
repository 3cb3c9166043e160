/** ImageStore.commit: a new image out of another one and a layer. */
import type { Readable } from 'node:stream';

import { notFound, type Catalog } from './catalog.js';
import { applyChanges } from './changes.js';
import { sha256 } from './digest.js';
import { parseConfig } from './json.js';
import { change, parseName } from './operations.js';
import { checkLayerCount, LAYER_COMPRESSIONS, Transaction } from './transaction.js';
import type { CommitOptions, ImageConfig, ImageSummary } from './types.js';

export async function commitImage(
  catalog: Catalog,
  parent: string,
  source: Readable,
  options: CommitOptions,
): Promise<ImageSummary> {
  const references = options.name === undefined ? [] : [parseName(options.name)];
  const { entries } = await catalog.find(parent);
  const record = catalog.layout.readImageRecord(entries[0].digest);
  if (!record) throw notFound(parent);
  const runConfig = applyChanges(
    options.changes ?? [],
    options.config ?? record.config.config ?? {},
  );
  return change(catalog, async (workspace) => {
    const { onProgress, signal } = options;
    const transaction = new Transaction(catalog.layout, workspace, { onProgress, signal });
    const layers = record.layers.map(({ diffId, blob, blobSize, mediaType }) => {
      const found = transaction.findLayer({ diffId, digest: blob, size: blobSize, mediaType });
      if (!found) throw notFound(parent);
      return found;
    });
    layers.push(
      await transaction.stageLayer(
        { what: 'the new layer', source },
        { copy: true, keep: LAYER_COMPRESSIONS },
      ),
    );
    const created = new Date().toISOString();
    const { author: _before, ...inherited } = record.config;
    const { author, createdBy, message } = options;
    const by = author === undefined ? {} : { author };
    const config: ImageConfig = {
      ...inherited,
      ...by,
      created,
      config: runConfig,
      rootfs: { type: 'layers', diff_ids: layers.map(({ diffId }) => diffId) },
      history: [
        ...(record.config.history ?? []),
        {
          created,
          ...by,
          created_by: createdBy ?? '',
          ...(message === undefined ? {} : { comment: message }),
        },
      ],
    };
    checkLayerCount(config);
    const configBytes = Buffer.from(JSON.stringify(config));
    parseConfig('the config of the new image', configBytes); // options.config is the caller's
    const configDigest = sha256(configBytes);
    await transaction.stageImage({ config, configBytes, configDigest, references }, layers);
    await transaction.commit();
    const image = (await catalog.list()).find(({ id }) => id === configDigest);
    if (!image) throw notFound(configDigest); // someone has removed it at once
    return image;
  });
}
