/** Names for containers that were given none. */
import { randomBytes } from './host.js';

const ADJECTIVES = [
  ...['amber', 'brisk', 'calm', 'clear', 'deft', 'eager', 'fleet', 'gentle', 'hardy', 'keen'],
  ...['light', 'merry', 'nimble', 'noble', 'placid', 'quick', 'quiet', 'rapid', 'sharp', 'steady'],
  ...[
    'sunny',
    'swift',
    'tidy',
    'vivid',
    'warm',
    'witty',
    'bold',
    'bright',
    'crisp',
    'spry',
    'prim',
    'agile',
  ],
];
const NOUNS = [
  ...['alder', 'aspen', 'badger', 'beech', 'birch', 'brook', 'cedar', 'crane', 'creek', 'curlew'],
  ...['elm', 'falcon', 'fern', 'finch', 'heron', 'ibex', 'juniper', 'kestrel', 'larch', 'lark'],
  ...[
    'linden',
    'lynx',
    'maple',
    'marten',
    'oak',
    'otter',
    'pine',
    'plover',
    'rowan',
    'swallow',
    'tern',
    'willow',
  ],
];

/** `brisk_heron`; with `attempt` above 0 a number behind it. */
export function makeName(attempt: number): string {
  const [a = 0, b = 0, c = 0, d = 0] = randomBytes(4);
  const name = `${ADJECTIVES[a % ADJECTIVES.length]}_${NOUNS[b % NOUNS.length]}`;
  return attempt === 0 ? name : `${name}_${(c << 8) | d}`;
}
