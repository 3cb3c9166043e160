/** clearvm volume ls */
import {
  booleanFilter,
  labelTest,
  parseFilters,
  type Filter,
  type FilterTest,
} from '../engine/filters.js';
import type { NamedVolume, VolumeStore } from '../engine/volume-store.js';
import type { Command } from './command.js';
import type { OptionTable } from './options.js';
import { interspersed } from './parse-run.js';
import { formatRows, type Fields } from './template.js';

const options: OptionTable = {
  quiet: { type: 'boolean', short: 'q', describe: 'Names only' },
  filter: {
    type: 'list',
    short: 'f',
    value: 'NAME=VALUE',
    describe: 'Only: name, label, dangling, driver',
  },
  format: {
    type: 'string',
    value: 'json|table|TEMPLATE',
    describe: "json: an object for each line; or docker's templates: '{{.Name}}'",
  },
};

const HEADINGS: Fields = {
  Driver: 'DRIVER',
  Name: 'VOLUME NAME',
  Scope: 'SCOPE',
  Mountpoint: 'MOUNTPOINT',
  Labels: 'LABELS',
  Links: 'LINKS',
  Size: 'SIZE',
};

export const command: Command = {
  usage: 'volume ls [OPTIONS]',
  summary: 'List volumes',
  options,
  operands: [0, 0],
  failureStatus: 1,
  examples: [
    ['clearvm volume ls', 'all of them'],
    ['clearvm volume ls -q --filter dangling=true', 'those that no container has'],
  ],
  parse: interspersed('volume ls', options),

  async run({ options: given }, context) {
    const store = await (await context.engine()).volumes();
    const wanted = parseFilters(given.list('filter'), (filter) => volumeTest(store, filter));
    const volumes = store.list().filter((volume) => wanted.matches(volume));
    const format = given.text('format');
    if (given.flag('quiet') && format === undefined) {
      for (const { name } of volumes) process.stdout.write(`${name}\n`);
      return 0;
    }
    const rows = volumes.map(({ name, mountpoint, labels }): Fields => ({
      Driver: 'local',
      Label: (label: string) => labels[label] ?? '',
      Labels: Object.entries(labels)
        .map((pair) => pair.join('='))
        .join(','),
      Links: 'N/A',
      Mountpoint: mountpoint,
      Name: name,
      Scope: 'local',
      Size: 'N/A',
    }));
    const table = { columns: ['Driver', 'Name'], headings: HEADINGS, command: 'volume ls' };
    process.stdout.write(formatRows(rows, format ?? 'table', table));
    return 0;
  },
};

/** docker's `volume ls --filter`. Errors: ERR_FILTER. */
function volumeTest(store: VolumeStore, filter: Filter): FilterTest<NamedVolume> | undefined {
  const { name, value } = filter;
  switch (name) {
    case 'name':
      return (volume) => volume.name.includes(value);
    case 'driver':
      return () => value === 'local';
    case 'dangling': {
      const wanted = booleanFilter(filter);
      return (volume) => (store.usersOf(volume.name).length === 0) === wanted;
    }
    case 'label': {
      const test = labelTest(value);
      return ({ labels }) => test(labels);
    }
    default:
      return undefined;
  }
}
