// Command lines that people who know docker write, run through Docker 20.10 and through clearvm in one lab: output, exit
// status and effect are the same, or docs/limitations.md says why not.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { busyboxImage } from '../../scripts/images.mjs';
import { CLI, PROJECT, startHost, type Host } from '../lab/support.js';
import { prepareDocker, startDocker } from './behaviour/docker.js';
import { installTools, judge, runTopic, type Row } from './behaviour/table.js';
import { TOPICS } from './behaviour/topics.js';

let host: Host;
beforeAll(async () => {
  const directory = await prepareDocker();
  const { archive } = await busyboxImage();
  host = await startHost();
  await installTools(host, {
    docker: `${directory}/usr/bin/docker`,
    clearvm: `${process.execPath} -- ${CLI}`,
  });
  // Docker 20.10 loads no OCI archives.
  const { status, stderr } = await host.run([
    ...['skopeo', '--insecure-policy', 'copy', '-q'],
    ...[`oci-archive:${archive}`, 'docker-archive:/tmp/busybox.tar:busybox:latest'],
  ]);
  if (status !== 0) throw new Error(stderr);
  await startDocker(host, directory, '/tmp/busybox.tar');
});
afterAll(() => host?.close());

/** Sentences as they are in the source: without marks, on one line. */
const plain = (text: string): string => text.replace(/[`*]|\*\*/g, '').replace(/\s+/g, ' ');
const limitations = plain(readFileSync(join(PROJECT, 'docs/limitations.md'), 'utf8'));

const tried: Row[] = [];

describe('the table', () => {
  test.each(TOPICS.map((topic) => [topic.name, topic] as const))('%s', async (_, topic) => {
    // Each has its own store, and nothing to do with the other: one computes while the other waits.
    const [docker, clearvm] = await Promise.all([
      runTopic(host, topic, 'docker'),
      runTopic(host, topic, 'clearvm'),
    ]);
    const wrong = topic.rows.flatMap((row, index) => {
      const [theirs, ours] = [docker[index], clearvm[index]];
      if (!theirs || !ours) return [`${row.line}\n  was not run`];
      return judge(row, theirs, ours).map((text) => `${row.line}\n  ${text}`);
    });
    expect(wrong.join('\n')).toBe('');
    tried.push(...topic.rows);
  });

  test('docs/limitations.md says why each difference is', () => {
    const rows = TOPICS.flatMap((topic) => topic.rows);
    const unexplained = rows.filter(
      ({ differs }) => differs && !limitations.includes(plain(differs.why)),
    );
    expect(unexplained.map(({ line, differs }) => `${line}: ${differs?.why}`)).toEqual([]);
  });

  test('it is as long as it was promised to be', () => {
    expect(TOPICS.flatMap((topic) => topic.rows).length).toBeGreaterThanOrEqual(120);
  });
});

afterAll(() => {
  const explained = tried.filter(({ differs }) => differs).length;
  console.log(`${tried.length} rows: same ${tried.length - explained}, explained ${explained}`);
});
