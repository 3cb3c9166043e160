/** clearvm cp */
import { createReadStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';

import type { Command } from './command.js';
import { usageError, type OptionTable } from './options.js';
import { formatBytes } from './output.js';
import { interspersed } from './parse-run.js';

const options: OptionTable = {
  archive: { type: 'boolean', short: 'a', describe: 'Keep owners' },
  'follow-link': {
    type: 'boolean',
    short: 'L',
    describe: 'Copy what a symbolic link leads to, not the link',
  },
  quiet: { type: 'boolean', short: 'q', describe: 'Do not say how much was copied' },
};

/** `CONTAINER:PATH`; undefined for a path of this host, which may have a colon behind a slash or dot. */
export function splitPlace(text: string): { container: string; path: string } | undefined {
  const colon = text.indexOf(':');
  if (colon <= 0 || text.startsWith('/') || text.startsWith('.')) return undefined;
  return { container: text.slice(0, colon), path: text.slice(colon + 1) };
}

export const command: Command = {
  usage: 'cp [OPTIONS] CONTAINER:PATH PATH|-   or   cp [OPTIONS] PATH|- CONTAINER:PATH',
  summary: 'Copy files between a container, running or not, and this host',
  options,
  operands: [2, 2],
  failureStatus: 1,
  examples: [
    ['clearvm cp web:/etc/nginx ./nginx', 'a directory out of it'],
    ['clearvm cp site/. web:/usr/share/nginx/html', "a directory's contents into it"],
    ['clearvm cp web:/var/log - | tar -tv', 'as an archive'],
  ],
  parse: interspersed('cp', options),

  async run({ options: given, operands: [from = '', to = ''] }, context) {
    const source = splitPlace(from);
    const target = splitPlace(to);
    if (source && target) throw usageError('copying between containers is not supported', 'cp');
    const place = source ?? target;
    if (!place) throw usageError('must specify at least one container source', 'cp');
    const container = await (await context.engine()).container(place.container);
    const copy = { archive: given.flag('archive'), followLink: given.flag('follow-link') };
    if (source && to === '-') {
      if (process.stdout.isTTY) {
        throw usageError('refusing to write an archive to a terminal: redirect it', 'cp');
      }
      const archive = await container.readArchive(source.path, copy);
      await pipeline(archive, process.stdout, { end: false });
      return 0;
    }
    let bytes: number;
    if (source) bytes = await container.copyOut(source.path, to, copy);
    else if (from !== '-') bytes = await container.copyIn(from, place.path, copy);
    else {
      // Not by process.stdin: what comes behind the archive is not waited for.
      const input = createReadStream('', { fd: 0, autoClose: false });
      bytes = await container.writeArchive(place.path, input, { archive: true });
    }
    if (!given.flag('quiet')) {
      process.stderr.write(`Successfully copied ${formatBytes(bytes)} to ${to}\n`);
    }
    return 0;
  },
};
