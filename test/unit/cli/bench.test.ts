import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { benchOptions, command } from '../../../src/cli/bench.js';
import { dispatch } from '../../../src/cli/dispatch.js';
import { interspersed } from '../../../src/cli/parse-run.js';
import { SAMPLE } from '../bench/sample.js';

let base: string;
let out: string;
let err: string;
beforeEach(() => {
  base = mkdtempSync(path.join(tmpdir(), 'clearvm-cli-bench-'));
  vi.stubEnv('CLEARVM_RUN', `${base}/run`);
  vi.stubEnv('CLEARVM_ROOT', `${base}/root`);
  out = '';
  err = '';
  vi.spyOn(process.stdout, 'write').mockImplementation((chunk) => {
    out += String(chunk);
    return true;
  });
  vi.spyOn(process.stderr, 'write').mockImplementation((chunk) => {
    err += String(chunk);
    return true;
  });
});
afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllEnvs();
  rmSync(base, { recursive: true, force: true });
});

test.each([
  ['nothing to measure', [], /requires at least 1 argument/],
  ['what cannot be measured', ['speed'], /"speed" is nothing to measure: choose of boot, memory/],
  ['network', ['network'], /"network" is nothing to measure/],
  ['one of several', ['boot,net'], /"net" is nothing to measure/],
  ['no runs', ['boot', '--runs', '0'], /--runs: "0" is not 1 to 100000/],
  ['runs that are no number', ['boot', '--runs', '3x'], /--runs: "3x"/],
  ['too little memory', ['boot', '-m', '1m'], /1m is too little/],
  ['an unknown runtime', ['boot', '--runtimes', 'runc,qemu'], /no runtime "qemu": choose of/],
  ['no runtime', ['boot', '--runtimes', ''], /no runtime ""/],
  ['a file for a measurement', ['boot', 'x.json'], /"x.json" is one too many/],
  ['a report of nothing', ['report'], /which file\?/],
  ['a report that is missing', ['report', '/no/file'], /\/no\/file/],
])('bench refuses %s, and leaves nothing', async (_, argv, message) => {
  expect(await dispatch(['bench', ...argv])).toBe(1);
  expect(err).toMatch(message);
  expect(err).toMatch(/^clearvm: [^\n]+\n$/);
  expect(out).toBe('');
  expect(readdirSync(base)).toEqual([]);
});

test('defaults, and what is given', () => {
  const optionsOf = (...argv: string[]) =>
    benchOptions('all', interspersed('bench', command.options)(argv).options);
  expect(optionsOf()).toMatchObject({
    ...{ runs: 20, workRuns: 5, warmup: 2, memoryMiB: 128, count: 100, timeoutMs: 120_000 },
    kinds: ['boot', 'memory', 'density', 'io', 'cpu', 'isolation'],
  });
  expect(
    optionsOf('--runs', '3', '--warmup=0', '-m', '1g', '--runtimes', 'runc,crun', '--count', '7'),
  ).toMatchObject({
    ...{ runs: 3, workRuns: 3, warmup: 0, memoryMiB: 1024, count: 7, runtimes: ['runc', 'crun'] },
  });
});

test('a report as tables, JSON, page and picture; its failures are the exit status', async () => {
  const file = path.join(base, 'result.json');
  const [html, svg] = [path.join(base, 'page.html'), path.join(base, 'plots.svg')];
  writeFileSync(file, JSON.stringify(SAMPLE));
  expect(await dispatch(['bench', 'report', file, '--html', html, '--svg', svg])).toBe(1);
  expect(out).toMatch(/^Start-up, ms$/m);
  expect(out).toMatch(/^clearvm \(forked\) +13\.37 +16\.713 +12\.033 +16\.713 +3$/m);
  expect(readFileSync(html, 'utf8')).toContain('</html>');
  expect(readFileSync(svg, 'utf8')).toMatch(/^<svg [^]*<\/svg>\n$/);

  out = '';
  writeFileSync(file, JSON.stringify({ ...SAMPLE, failures: [] }));
  expect(await dispatch(['bench', '--json', 'report', file])).toBe(0);
  expect(JSON.parse(out)).toEqual({ ...SAMPLE, failures: [] });
  expect(existsSync(`${base}/root`)).toBe(false);
});
