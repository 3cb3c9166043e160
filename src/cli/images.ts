/** clearvm images */
import type { ImageSummary } from '../image/index.js';
import type { Command } from './command.js';
import { usageError } from './options.js';
import { formatAge, formatBytes, formatTable } from './output.js';

const NONE = '<none>';
const SHORT_ID = 12;

export const command: Command = {
  usage: 'images [OPTIONS] [NAME[:TAG]]',
  summary: 'List images',
  options: {
    quiet: { type: 'boolean', short: 'q', describe: 'Ids only' },
    digests: { type: 'boolean', describe: 'With the digests of their manifests' },
    'no-trunc': { type: 'boolean', describe: 'Whole ids' },
    format: { type: 'string', value: 'json|table', describe: 'json: an object for each line' },
  },
  operands: [0, 1],
  failureStatus: 1,
  examples: [
    ['clearvm images', 'all of them'],
    ['clearvm images debian', 'those called debian'],
    ['clearvm images -q', 'ids, for scripts'],
    ['clearvm images --format json', 'a JSON object for each line'],
  ],

  async run({ options, operands }, context) {
    const format = options.text('format') ?? 'table';
    if (format !== 'json' && format !== 'table') {
      throw usageError(`--format is json or table, not ${JSON.stringify(format)}`, 'images');
    }
    const { images } = await context.engine();
    const rows = imageRows(await images.list(), operands[0]);
    const shorten = (id: string): string =>
      options.flag('no-trunc') ? id : id.replace(/^sha256:/, '').slice(0, SHORT_ID);
    if (options.flag('quiet')) {
      const ids = new Set(rows.map(({ image }) => shorten(image.id)));
      for (const id of ids) process.stdout.write(`${id}\n`);
      return 0;
    }
    const now = Date.now();
    const cells = rows.map(({ image, repository, tag }) => ({
      Repository: repository,
      Tag: tag,
      Digest: image.digest,
      ID: shorten(image.id),
      CreatedSince: formatAge(image.created, now),
      Size: formatBytes(image.size),
    }));
    if (format === 'json') {
      rows.forEach(({ image }, index) => {
        const line = { ...cells[index], CreatedAt: image.created ?? '', SizeBytes: image.size };
        process.stdout.write(`${JSON.stringify(line)}\n`);
      });
      return 0;
    }
    const digests = options.flag('digests');
    const heading = [
      'REPOSITORY',
      'TAG',
      ...(digests ? ['DIGEST'] : []),
      'IMAGE ID',
      'CREATED',
      'SIZE',
    ];
    const table = cells.map((cell) => [
      cell.Repository,
      cell.Tag,
      ...(digests ? [cell.Digest] : []),
      cell.ID,
      cell.CreatedSince,
      cell.Size,
    ]);
    process.stdout.write(formatTable([heading, ...table]));
    return 0;
  },
};

interface ImageRow {
  image: ImageSummary;
  repository: string;
  tag: string;
}

/** A row for each name, as docker has it; `filter` is a repository, with a tag or not. */
export function imageRows(images: readonly ImageSummary[], filter?: string): ImageRow[] {
  const rows: ImageRow[] = [];
  for (const image of images) {
    if (image.names.length === 0) rows.push({ image, repository: NONE, tag: NONE });
    for (const name of image.names) {
      const at = name.indexOf('@');
      const plain = at < 0 ? name : name.slice(0, at);
      const colon = plain.lastIndexOf(':');
      const tagged = colon > plain.lastIndexOf('/');
      rows.push({
        image,
        repository: tagged ? plain.slice(0, colon) : plain,
        tag: tagged ? plain.slice(colon + 1) : NONE,
      });
    }
  }
  if (filter === undefined) return rows;
  return rows.filter(
    ({ repository, tag }) => repository === filter || `${repository}:${tag}` === filter,
  );
}
