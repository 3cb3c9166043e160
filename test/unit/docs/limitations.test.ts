// The page of what is missing names every option that the command refuses.
import { readFileSync } from 'node:fs';

import { expect, test } from 'vitest';

import { REFUSED_OPTIONS } from '../../../src/cli/run-refused.js';

const page = readFileSync(new URL('../../../docs/limitations.md', import.meta.url), 'utf8');

test.each(Object.entries(REFUSED_OPTIONS))(
  'docs/limitations.md explains --%s',
  (name, { short }) => {
    expect(page).toContain(`\`--${name}\``);
    if (short !== undefined) expect(page).toContain(`\`-${short}\``);
  },
);
