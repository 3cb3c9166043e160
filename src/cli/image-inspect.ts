/** clearvm image inspect, and what `inspect` says of images: docker's form. */
import type { ImageDetails } from '../image/index.js';
import type { Command } from './command.js';
import type { OptionTable } from './options.js';
import { formatError } from './output.js';
import { formatDetails, type Fields } from './template.js';

const options: OptionTable = {
  format: {
    type: 'string',
    short: 'f',
    value: 'json|TEMPLATE',
    describe: "A line for each: json, or docker's templates: '{{.Id}}'",
  },
};

export const command: Command = {
  usage: 'image inspect [OPTIONS] IMAGE...',
  summary: 'Show everything about images, as a JSON array',
  options,
  operands: [1, Number.POSITIVE_INFINITY],
  failureStatus: 1,
  examples: [
    ['clearvm image inspect debian:12', 'everything about it'],
    ["clearvm image inspect debian:12 | jq '.[0].Config.Env'", 'its environment'],
  ],

  async run({ options: given, operands }, context) {
    const { images } = await context.engine();
    const found: Fields[] = [];
    let status = 0;
    for (const reference of operands) {
      try {
        found.push(describeImage(await images.inspect(reference)));
      } catch (error) {
        process.stderr.write(formatError(error));
        status = 1;
      }
    }
    process.stdout.write(formatDetails(found, given.text('format'), 'image inspect'));
    return status;
  },
};

/** An image as docker's API has it; what has no meaning here is left out. */
export function describeImage(image: ImageDetails): Record<string, unknown> {
  const { config, layers } = image;
  const paths = layers.map(({ path }) => path).reverse();
  return {
    Id: image.id,
    RepoTags: image.names.filter((name) => !name.includes('@')),
    RepoDigests: image.repositoryDigests,
    Parent: '',
    Comment: config.history?.at(-1)?.comment ?? '',
    Created: config.created ?? '',
    Author: config.author ?? '',
    DockerVersion: '',
    Config: {
      User: '',
      Env: null,
      Cmd: null,
      Volumes: null,
      WorkingDir: '',
      Entrypoint: null,
      OnBuild: null,
      Labels: null,
      ...config.config,
    },
    Architecture: config.architecture,
    Os: config.os,
    Size: image.size,
    VirtualSize: image.size,
    GraphDriver: { Name: 'overlay2', Data: { LowerDir: paths.join(':') } },
    RootFS: { Type: 'layers', Layers: layers.map(({ diffId }) => diffId) },
  };
}
