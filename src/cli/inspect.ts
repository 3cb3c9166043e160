/** clearvm inspect */
import { ClearVMError } from '../errors.js';
import type { Engine } from '../engine/engine.js';
import type { Command } from './command.js';
import { describeImage } from './image-inspect.js';
import { describeVolume } from './volume-inspect.js';
import { usageError, type OptionTable } from './options.js';
import { formatError } from './output.js';
import { interspersed } from './parse-run.js';
import { formatDetails, type Fields } from './template.js';

const options: OptionTable = {
  format: {
    type: 'string',
    short: 'f',
    value: 'json|TEMPLATE',
    describe: "A line for each: json, or docker's templates: '{{.State.Status}}'",
  },
  size: { type: 'boolean', short: 's', describe: 'With what containers take on the disk' },
  type: {
    type: 'string',
    value: 'container|image|volume',
    describe: 'Look for nothing else',
  },
};

export const command: Command = {
  usage: 'inspect [OPTIONS] CONTAINER|IMAGE...',
  summary: 'Show everything about containers and images, as a JSON array',
  options,
  operands: [1, Number.POSITIVE_INFINITY],
  failureStatus: 1,
  examples: [
    ['clearvm inspect web', 'everything about a container'],
    ["clearvm inspect -f '{{.State.ExitCode}}' web", 'one thing about it'],
    ["clearvm inspect debian:12 | jq '.[0].Config.Env'", "an image's environment"],
  ],
  parse: interspersed('inspect', options),

  async run({ options: given, operands }, context) {
    const engine = await context.engine();
    const type = given.text('type') ?? '';
    if (!['', 'container', 'image', 'volume'].includes(type)) {
      throw usageError(`"${type}" is not a valid value for --type`, 'inspect');
    }
    const found: Fields[] = [];
    let status = 0;
    for (const reference of operands) {
      try {
        found.push(await describe(engine, reference, type, given.flag('size')));
      } catch (error) {
        process.stderr.write(formatError(error));
        status = 1;
      }
    }
    process.stdout.write(formatDetails(found, given.text('format'), 'inspect'));
    return status;
  },
};

/** Whatever has that name or id: containers before images, images before volumes. Errors: ERR_NO_SUCH_OBJECT. */
async function describe(
  engine: Engine,
  reference: string,
  type: string,
  size: boolean,
): Promise<Fields> {
  const kinds: [string, string, () => Promise<Fields>][] = [
    ['container', 'ERR_CONTAINER_NOT_FOUND', () => describeOne(engine, reference, size)],
    [
      'image',
      'ERR_IMAGE_NOT_FOUND',
      async () => describeImage(await engine.images.inspect(reference)),
    ],
    [
      'volume',
      'ERR_VOLUME_NOT_FOUND',
      async () => describeVolume((await engine.volumes()).get(reference)),
    ],
  ];
  for (const [kind, none, act] of kinds) {
    if (type !== '' && type !== kind) continue;
    try {
      return await act();
    } catch (error) {
      // What is no name of an image may still be one of a volume.
      const other =
        error instanceof ClearVMError && [none, 'ERR_IMAGE_REFERENCE'].includes(error.code);
      if (!other || type === kind) throw error;
    }
  }
  throw new ClearVMError('ERR_NO_SUCH_OBJECT', `No such object: ${reference}`);
}

async function describeOne(engine: Engine, reference: string, size: boolean): Promise<Fields> {
  const { describeContainer } = await import('../engine/inspect.js');
  const container = await engine.container(reference);
  const details = describeContainer(container);
  if (!size) return details;
  const { treeContents } = await import('../engine/usage.js');
  const rw = await treeContents(`${container.directory}/upper`);
  const image = (await engine.images.list()).find(({ id }) => id === container.record.image.id);
  return { ...details, SizeRw: rw, SizeRootFs: rw + (image?.size ?? 0) };
}
