/** clearvm images */
import {
  booleanFilter,
  FilterSet,
  labelTest,
  splitFilter,
  type Filter,
  type FilterTest,
} from '../engine/filters.js';
import type { ImageDetails, ImageSummary } from '../image/index.js';
import type { Command } from './command.js';
import type { OptionTable } from './options.js';
import { formatAge, formatBytes } from './output.js';
import { formatRows, type Fields } from './template.js';

const NONE = '<none>';
const SHORT_ID = 12;

const options: OptionTable = {
  all: { type: 'boolean', short: 'a', describe: 'For command lines made for docker' },
  quiet: { type: 'boolean', short: 'q', describe: 'Ids only' },
  digests: { type: 'boolean', describe: 'With the digests of their manifests' },
  'no-trunc': { type: 'boolean', describe: 'Whole ids' },
  filter: {
    type: 'list',
    short: 'f',
    value: 'NAME=VALUE',
    describe: 'Only: reference, dangling, label, before, since',
  },
  format: {
    type: 'string',
    value: 'json|table|TEMPLATE',
    describe: "json: an object for each line; or docker's templates: '{{.Repository}}:{{.Tag}}'",
  },
};

const HEADINGS: Fields = {
  Repository: 'REPOSITORY',
  Tag: 'TAG',
  Digest: 'DIGEST',
  ID: 'IMAGE ID',
  CreatedSince: 'CREATED',
  CreatedAt: 'CREATED AT',
  Size: 'SIZE',
  SizeBytes: 'BYTES',
  Containers: 'CONTAINERS',
  SharedSize: 'SHARED SIZE',
  UniqueSize: 'UNIQUE SIZE',
  VirtualSize: 'SIZE',
};

export const command: Command = {
  usage: 'images [OPTIONS] [NAME[:TAG]]',
  summary: 'List images',
  options,
  operands: [0, 1],
  failureStatus: 1,
  examples: [
    ['clearvm images', 'all of them'],
    ['clearvm images debian', 'those called debian'],
    ['clearvm images -q', 'ids, for scripts'],
    ["clearvm images --filter reference='deb*:12'", 'by patterns'],
  ],

  async run({ options: given, operands }, context) {
    const { images } = await context.engine();
    const all = await images.list();
    const wanted = await imageFilters(given.list('filter'), (text) => images.inspect(text));
    const pattern = operands[0];
    const rows = imageRows(all).filter(
      (row) => wanted.matches(row) && (pattern === undefined || matchesReference(row, pattern)),
    );
    // The newest first, as docker has them; of one image by name.
    rows.sort((a, b) => Date.parse(b.image.created ?? '') - Date.parse(a.image.created ?? '') || 0);
    const shorten = (id: string): string =>
      given.flag('no-trunc') ? id : id.replace(/^sha256:/, '').slice(0, SHORT_ID);
    const format = given.text('format');
    if (given.flag('quiet') && format === undefined) {
      for (const { image } of rows) process.stdout.write(`${shorten(image.id)}\n`);
      return 0;
    }
    const now = Date.now();
    const cells = rows.map(({ image, repository, tag, digest }): Fields => ({
      Containers: 'N/A',
      CreatedAt: image.created ?? '',
      CreatedSince: formatAge(image.created, now),
      Digest: digest,
      ID: shorten(image.id),
      Repository: repository,
      SharedSize: 'N/A',
      Size: formatBytes(image.size),
      SizeBytes: image.size,
      Tag: tag,
      UniqueSize: 'N/A',
      VirtualSize: formatBytes(image.size),
    }));
    const columns = [
      ...['Repository', 'Tag'],
      ...(given.flag('digests') ? ['Digest'] : []),
      ...['ID', 'CreatedSince', 'Size'],
    ];
    const table = { columns, headings: HEADINGS, command: 'images' };
    process.stdout.write(formatRows(cells, format ?? 'table', table));
    return 0;
  },
};

/** A shell's pattern for names: * and ? do not reach beyond a slash. */
function glob(pattern: string): RegExp {
  const text = pattern
    .replace(/[.+^${}()|\\]/g, '\\$&')
    .replace(/\*/g, '[^/]*')
    .replace(/\?/g, '[^/]');
  try {
    return new RegExp(`^${text}$`);
  } catch {
    return /^$/; // a bracket that is not closed
  }
}

/** Whether one of the row's names is that of a pattern. */
export function matchesReference({ repository, tag, digest }: ImageRow, pattern: string): boolean {
  const wanted = glob(pattern);
  return [repository, `${repository}:${tag}`, `${repository}@${digest}`].some((name) =>
    wanted.test(name),
  );
}

type Test = FilterTest<ImageRow>;

/** docker's `images --filter`. Errors: ERR_FILTER; those of `inspect`, for `before` and `since`. */
async function imageFilters(
  filters: readonly string[],
  inspect: (reference: string) => Promise<ImageDetails>,
): Promise<FilterSet<ImageRow>> {
  const set = new FilterSet<ImageRow>();
  for (const text of filters) {
    const filter = splitFilter(text);
    set.add(filter, await imageTest(filter, inspect));
  }
  return set;
}

async function imageTest(
  filter: Filter,
  inspect: (reference: string) => Promise<ImageDetails>,
): Promise<Test | undefined> {
  const { name, value } = filter;
  switch (name) {
    case 'reference':
      return (row) => matchesReference(row, value);
    case 'dangling': {
      const wanted = booleanFilter(filter);
      return ({ image }) => (image.names.length === 0) === wanted;
    }
    case 'label': {
      const test = labelTest(value);
      return ({ image }) => test(image.labels ?? {});
    }
    case 'before':
    case 'since': {
      const { id, created = '' } = await inspect(value);
      const pivot = Date.parse(created);
      return ({ image }) => {
        const time = Date.parse(image.created ?? '');
        return image.id !== id && (name === 'before' ? time < pivot : time > pivot);
      };
    }
    default:
      return undefined;
  }
}

interface ImageRow {
  image: ImageSummary;
  repository: string;
  tag: string;
  /** The registry's, where it is known to have the image. */
  digest: string;
}

/** A row for each name, as docker has it. */
export function imageRows(images: readonly ImageSummary[]): ImageRow[] {
  const rows: ImageRow[] = [];
  for (const image of images) {
    const add = (repository: string, tag: string): void => {
      const known = image.repositoryDigests.find((each) => each.startsWith(`${repository}@`));
      const digest = known?.slice(repository.length + 1) ?? image.digest;
      // What was pulled by its digest needs no row beside that of its tag.
      if (tag === NONE && rows.some((row) => row.image === image && row.repository === repository))
        return;
      rows.push({ image, repository, tag, digest });
    };
    if (image.names.length === 0) add(NONE, NONE);
    for (const name of image.names) {
      const at = name.indexOf('@');
      const plain = at < 0 ? name : name.slice(0, at);
      const colon = plain.lastIndexOf(':');
      const tagged = colon > plain.lastIndexOf('/');
      if (tagged) add(plain.slice(0, colon), plain.slice(colon + 1));
      else add(plain, NONE);
    }
  }
  return rows;
}
