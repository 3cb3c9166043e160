import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

import { afterAll, beforeAll, expect, test } from 'vitest';

import { htmlOf, svgOf } from '../../../src/bench/report/html.js';
import { plotsOf, short } from '../../../src/bench/report/plots.js';
import { readReport } from '../../../src/bench/report/read.js';
import { tablesOf } from '../../../src/bench/report/tables.js';
import { SAMPLE } from './sample.js';

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(path.join(tmpdir(), 'clearvm-report-'));
});
afterAll(() => rmSync(directory, { recursive: true }));

function write(name: string, text: string): string {
  const file = path.join(directory, name);
  writeFileSync(file, text);
  return file;
}

/** Every number in a value, as JSON writes it. */
function numbersOf(value: unknown): string[] {
  if (typeof value === 'number') return [String(value)];
  return value && typeof value === 'object' ? Object.values(value).flatMap(numbersOf) : [];
}

const textOf = (html: string): string =>
  html
    .replace(/<(script|style|svg)[^]*?<\/\1>/g, '')
    .replace(/<[^>]*>/g, '\n')
    .replace(/&#(\d+);/g, (_, code) => String.fromCharCode(Number(code)));

test('a report that was written is read again, and anything else is refused by name', () => {
  expect(readReport(write('good.json', JSON.stringify(SAMPLE)))).toEqual(SAMPLE);
  const refuses = (report: unknown, message: RegExp): void => {
    const file = write('bad.json', typeof report === 'string' ? report : JSON.stringify(report));
    expect(() => readReport(file)).toThrow(expect.objectContaining({ code: 'ERR_BENCH_REPORT' }));
    expect(() => readReport(file)).toThrow(message);
  };
  refuses('{', /bad\.json/);
  refuses({ ...SAMPLE, version: 2 }, /version/);
  refuses({ ...SAMPLE, more: 1 }, /more/);
  refuses({ ...SAMPLE, cpu: [{ ...SAMPLE.cpu?.[0], slowdown: 0 }] }, /slowdown/);
  const { host: _, ...withoutHost } = SAMPLE;
  refuses(withoutHost, /host/);
});

test('the page shows every figure outside its plots, and the plots theirs', async () => {
  const html = await htmlOf(SAMPLE);
  const text = textOf(html).split(/\s+/);
  const { version: _, sizes, boot, memory, density, io, cpu, isolation } = SAMPLE;
  // `rounds` and the runs of single figures are settings.
  const shown = {
    boot,
    memory,
    density,
    io,
    isolation,
    cpu: cpu?.map(({ ms, slowdown }) => ({ ms, slowdown })),
  };
  for (const number of numbersOf(shown)) expect(text).toContain(number);
  for (const { bytes } of sizes) expect(text).toContain((bytes / 2 ** 20).toFixed(2));
  expect(html).toContain('2026-11-21T12:00:00.000Z');
  expect(textOf(html)).toContain('not measured: it is not installed </script>');
});

test('page and picture are well-formed, and load and run nothing', async () => {
  const html = await htmlOf(SAMPLE);
  const svg = await svgOf(SAMPLE);
  for (const [name, text] of [
    ['page.html', html.replace('<!DOCTYPE html>', '')],
    ['plots.svg', svg],
  ] as const) {
    const check = 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])';
    execFileSync('python3', ['-c', check, write(name, text)]);
    expect(text).not.toMatch(/(?:src|href)="(?!#)|url\((?!#)|@import|<link|<iframe|\son\w+=/);
    expect([...text.matchAll(/<script[^>]*>/g)].map(([tag]) => tag)).toEqual(
      name === 'page.html' ? ['<script type="application/json" id="report">'] : [],
    );
  }
  const json = /<script type="application\/json" id="report">(.*)<\/script>/.exec(html)?.[1];
  expect(JSON.parse(json ?? '')).toEqual(SAMPLE);
  expect(html).toContain('<title>A &#60;sample&#62; &#38; &#34;more&#34;</title>');
});

test('each plot belongs to a table, has a name for those who do not see it, and draws all runtimes', async () => {
  const plots = plotsOf(SAMPLE);
  const tables = tablesOf(SAMPLE).map(({ id }) => id);
  expect(plots.map(({ table }) => table)).toEqual([
    ...['boot', 'timeline', 'memory', 'sizes', 'density', 'density', 'io', 'cpu'],
    ...['isolation', 'isolation'],
  ]);
  for (const { table } of plots) expect(tables).toContain(table);
  const html = await htmlOf(SAMPLE);
  expect(html.match(/<svg role="img" aria-label="[^"]+"/g)).toHaveLength(plots.length);
  for (const label of ['clearvm (forked)', 'crun', 'QEMU pc (BIOS)']) {
    expect(plots[0]?.svg).toContain(label);
  }
  expect(plots[0]?.svg).toContain('3,457');
});

test('a report of one kind has the tables and plots of that kind', () => {
  const { memory: _m, density: _d, io: _i, cpu: _c, isolation: _s, ...rest } = SAMPLE;
  const report = { ...rest, skipped: [], failures: [] };
  expect(tablesOf(report).map(({ id }) => id)).toEqual(['boot', 'timeline', 'sizes', 'runtimes']);
  expect(plotsOf(report).map(({ table }) => table)).toEqual(['boot', 'timeline', 'sizes']);
});

test('figures beside marks are short', () => {
  expect([0.1234, 13.37, 99.96, 250.4, 12345.6].map(short)).toEqual([
    ...['0.123', '13.4', '100', '250', '12,346'],
  ]);
});
