/** clearvm volume inspect */
import type { NamedVolume } from '../engine/volume-store.js';
import type { Command } from './command.js';
import { formatError } from './output.js';
import type { OptionTable } from './options.js';
import { interspersed } from './parse-run.js';
import { formatDetails, type Fields } from './template.js';

const options: OptionTable = {
  format: {
    type: 'string',
    short: 'f',
    value: 'json|TEMPLATE',
    describe: "A line for each: json, or docker's templates: '{{.Mountpoint}}'",
  },
};

export const command: Command = {
  usage: 'volume inspect [OPTIONS] VOLUME...',
  summary: 'Show everything about volumes, as a JSON array',
  options,
  operands: [1, Number.POSITIVE_INFINITY],
  failureStatus: 1,
  examples: [['clearvm volume inspect data', 'where its files are']],
  parse: interspersed('volume inspect', options),

  async run({ options: given, operands }, context) {
    const volumes = await (await context.engine()).volumes();
    const found: Fields[] = [];
    let status = 0;
    for (const name of operands) {
      try {
        found.push(describeVolume(volumes.get(name)));
      } catch (error) {
        process.stderr.write(formatError(error));
        status = 1;
      }
    }
    process.stdout.write(formatDetails(found, given.text('format'), 'volume inspect'));
    return status;
  },
};

/** A volume as docker's API has it. */
export function describeVolume(volume: NamedVolume): Fields {
  const { created, labels, mountpoint, name } = volume;
  return {
    CreatedAt: created,
    Driver: 'local',
    Labels: labels,
    Mountpoint: mountpoint,
    Name: name,
    Options: {},
    Scope: 'local',
  };
}
