import { describe, expect, test } from 'vitest';

import { familiarName, formatReference, parseReference } from '../../../src/image/index.js';
import { failure } from './fixtures.js';

const digest = `sha256:${'0123456789abcdef'.repeat(4)}`;

describe('parseReference', () => {
  test.each([
    ['debian', 'docker.io/library/debian:latest', 'debian:latest'],
    ['debian:12', 'docker.io/library/debian:12', 'debian:12'],
    ['user/app', 'docker.io/user/app:latest', 'user/app:latest'],
    ['docker.io/debian', 'docker.io/library/debian:latest', 'debian:latest'],
    ['index.docker.io/library/debian', 'docker.io/library/debian:latest', 'debian:latest'],
    ['docker.io/library/a/b', 'docker.io/library/a/b:latest', 'library/a/b:latest'],
    ['ghcr.io/a/b/c:v1.2_3-x', 'ghcr.io/a/b/c:v1.2_3-x', 'ghcr.io/a/b/c:v1.2_3-x'],
    ['localhost/x', 'localhost/x:latest', 'localhost/x:latest'],
    ['localhost:5000/x:y', 'localhost:5000/x:y', 'localhost:5000/x:y'],
    ['[::1]:5000/x', '[::1]:5000/x:latest', '[::1]:5000/x:latest'],
    ['MyHost/x', 'MyHost/x:latest', 'MyHost/x:latest'],
    [`debian@${digest}`, `docker.io/library/debian@${digest}`, `debian@${digest}`],
    [`a.b/c:d@${digest}`, `a.b/c:d@${digest}`, `a.b/c:d@${digest}`],
    ['a__b/c-d.e', 'docker.io/a__b/c-d.e:latest', 'a__b/c-d.e:latest'],
    ['a---b', 'docker.io/library/a---b:latest', 'a---b:latest'],
  ])('%s', (text, normalised, familiar) => {
    const reference = parseReference(text);
    expect(formatReference(reference)).toBe(normalised);
    expect(familiarName(reference)).toBe(familiar);
    expect(parseReference(familiar)).toEqual(reference);
  });

  test.each([
    '',
    ':tag',
    'Debian',
    'a:',
    'a:-x',
    `a:${'t'.repeat(129)}`,
    'a//b',
    '/a',
    'a/',
    'a b',
    'a..b',
    'a___b',
    '-a',
    'a-',
    'a@sha256:123',
    `a@md5:${'0'.repeat(32)}`,
    '../a',
    'https://a.b/c',
    '0123456789abcdef'.repeat(4),
    digest,
    `x/${'a/'.repeat(150)}b`,
    'a'.repeat(100_000),
    'a\nb',
    'a\0',
  ])('refuses %j', async (text) => {
    await failure((async () => parseReference(text))(), 'ERR_IMAGE_REFERENCE');
  });
});
