/** From a snapshot to a container that runs. */
import { readFileSync } from 'node:fs';
import path from 'node:path';

import { checkVmConfig } from '../vm/config.js';
import { ClearVMError } from '../errors.js';
import { ImageError } from '../image/index.js';
import { checkOciSpec } from '../vm/spec.js';
import type { EngineContext } from './context.js';
import { randomBytes } from './host.js';
import { launch } from './launch.js';
import { Container } from './managed.js';
import { writeDurably, type ContainerRecord } from './record.js';
import { restoreLayer } from './snapshot-layer.js';
import { MACHINE, type Snapshot } from './snapshot-record.js';

/** A snapshot whose files are good. */
export interface SnapshotFiles {
  directory: string;
  snapshot: Snapshot;
  /** Where it is noted that its memory was checked. */
  checked: string;
}

function readJson(file: string): unknown {
  return JSON.parse(readFileSync(file, 'utf8'));
}

/**
 * Makes a container, and has it go on from the snapshot. Whatever fails, nothing stays behind. Errors: ERR_SNAPSHOT_IMAGE (its image
 * is not there), ERR_NAME_IN_USE, ERR_SNAPSHOT_LAYER, ERR_STATE, and those of `launch`.
 */
export async function restoreContainer(
  context: EngineContext,
  { directory, snapshot, checked }: SnapshotFiles,
  name?: string,
): Promise<Container> {
  const old = readJson(`${directory}/container.json`) as ContainerRecord;
  const config = readJson(`${directory}/vm.json`);
  const spec = readJson(`${directory}/config.json`);
  checkVmConfig(config);
  checkOciSpec(spec);
  const image = await context.images.resolve(snapshot.image.id).catch((cause: unknown) => {
    if (!(cause instanceof ImageError)) throw cause;
    throw new ClearVMError(
      'ERR_SNAPSHOT_IMAGE',
      `the snapshot ${snapshot.name} needs the image ${snapshot.image.reference} (${snapshot.image.id}): pull or load it`,
      { cause },
    );
  });
  const { layersDir, lower } = image;
  const id = randomBytes(32).toString('hex');
  const store = context.state;
  const places = store.create(id, name, image.id, path.join(layersDir, lower[0] ?? ''));
  const { dataDirectory } = places;
  const container = new Container(context, { ...old, id, name: places.name });
  try {
    context.images.confirm(image);
    await restoreLayer(directory, snapshot.sockets, `${dataDirectory}/upper`);
    // A name that was made of the id is this container's own; one that was given stays.
    const oldName = old.id.slice(0, 12);
    const rename = (text: string): string => text.replaceAll(oldName, id.slice(0, 12));
    const record: ContainerRecord = {
      ...old,
      ...{ id, name: places.name, created: new Date().toISOString() },
      // They are the other container's, too: neither goes with this one.
      mounts: old.mounts.map(({ anonymous: _, ...mount }) => mount),
    };
    config.id = id;
    config.root = {
      ...config.root,
      ...{ layers: layersDir, lower, base: store.baseDirectory, state: dataDirectory },
    };
    config.files = config.files.map((file) => ({ ...file, content: rename(file.content) }));
    if (spec.hostname !== undefined) spec.hostname = rename(spec.hostname);
    spec.root.path = `${dataDirectory}/merged`;
    if (spec.process.env) spec.process.env = spec.process.env.map(rename);
    writeDurably(dataDirectory, 'vm.json', JSON.stringify(config));
    writeDurably(dataDirectory, 'config.json', JSON.stringify(spec));
    writeDurably(dataDirectory, 'container.json', JSON.stringify(record));
    store.keep(places);
    const from = { machine: `${directory}/${MACHINE}`, checked, devices: snapshot.devices };
    await launch(context, places, { config, spec, record }, -1, from);
    return container;
  } catch (error) {
    await store.remove(places);
    throw error;
  }
}
