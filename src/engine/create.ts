/** Containers that are kept: making them, and finding those that were made. */
import path from 'node:path';

import type { EngineContext } from './context.js';
import { noteContainer } from './events.js';
import { findContainer } from './lookup.js';
import { Container } from './managed.js';
import type { RunOptions } from './options.js';
import { encodePlan, planContainer, removeAnonymousVolumes } from './plan.js';
import { writeDurably } from './record.js';

/** Makes a container that is kept, without starting it. Errors: those of `Engine.run`. */
export async function createContainer(
  context: EngineContext,
  image: string,
  options: RunOptions,
): Promise<Container> {
  const plan = await planContainer(context, image, options);
  encodePlan(plan); // what is too large is told now
  const { record, config, spec } = plan;
  const { layersDir, lower, id: imageId } = plan.image;
  const store = context.state;
  const places = store.create(
    record.id,
    options.name,
    imageId,
    path.join(layersDir, lower[0] ?? ''),
  );
  try {
    record.name = places.name;
    context.images.confirm(plan.image);
    writeDurably(places.dataDirectory, 'vm.json', JSON.stringify(config));
    writeDurably(places.dataDirectory, 'config.json', JSON.stringify(spec));
    writeDurably(places.dataDirectory, 'container.json', JSON.stringify(record));
    store.keep(places);
    noteContainer(context.root, 'create', record);
  } catch (error) {
    await store.remove(places);
    await removeAnonymousVolumes(context.root, record);
    throw error;
  }
  return new Container(context, record);
}

/** Errors: ERR_CONTAINER_NOT_FOUND, ERR_CONTAINER_AMBIGUOUS. */
export function openContainer(context: EngineContext, reference: string): Container {
  return new Container(context, findContainer(context.root, reference));
}
