// The kernel's configuration: what the fragments ask for, and whether a .config grants it.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** The kernel versions that the fragments are kept for. */
export const VERSIONS = ['6.1', '6.12'];

const LINE = /^(CONFIG_[A-Za-z0-9_]+)=("[^"]*"|[^\s#]+)\s*(?:@(\S+)\s*)?(?:#\s*(.*))?$/;

/**
 * Parses one fragment. Each line is empty, a comment, or `CONFIG_NAME=value [@version] # reason`.
 *
 * @param {string} text
 * @param {string} file its name, for messages
 * @returns {{symbols: {name: string, value: string, version: string | undefined, reason: string,
 *   where: string}[], problems: string[]}} one problem for each line that breaks the rules
 */
export function parseFragment(text, file) {
  const symbols = [];
  const problems = [];
  text.split('\n').forEach((line, index) => {
    const where = `${file}:${index + 1}`;
    if (/^\s*(#.*)?$/.test(line)) return;
    const match = LINE.exec(line);
    if (!match) {
      problems.push(`${where}: not of the form "CONFIG_NAME=value [@version] # reason": ${line}`);
      return;
    }
    const [, name, value, version, reason = ''] = match;
    if (version !== undefined && !VERSIONS.includes(version)) {
      problems.push(
        `${where}: ${name} is for version ${version}, which is none of ${VERSIONS.join(', ')}`,
      );
    }
    if (reason.trim() === '') problems.push(`${where}: ${name} has no reason`);
    symbols.push({ name, value, version, reason: reason.trim(), where });
  });
  return { symbols, problems };
}

/**
 * Names the symbols that two lines set for the same kernel version.
 *
 * @param {ReturnType<typeof parseFragment>['symbols']} symbols of all fragments together
 * @returns {string[]} one problem for each duplicate
 */
export function findDuplicates(symbols) {
  const problems = [];
  for (const version of VERSIONS) {
    const seen = new Map();
    for (const symbol of symbolsFor(symbols, version)) {
      const first = seen.get(symbol.name);
      if (first) problems.push(`${symbol.where}: ${symbol.name} is already set at ${first.where}`);
      else seen.set(symbol.name, symbol);
    }
  }
  return [...new Set(problems)];
}

/** The symbols that concern one kernel version. */
export function symbolsFor(symbols, version) {
  return symbols.filter((symbol) => symbol.version === undefined || symbol.version === version);
}

/**
 * Reads every *.config of a directory, in alphabetical order.
 *
 * @param {string} directory
 * @returns {ReturnType<typeof parseFragment>} problems include duplicates
 */
export function loadFragments(directory) {
  const symbols = [];
  const problems = [];
  for (const file of readdirSync(directory).sort()) {
    if (!file.endsWith('.config')) continue;
    const parsed = parseFragment(readFileSync(join(directory, file), 'utf8'), file);
    symbols.push(...parsed.symbols);
    problems.push(...parsed.problems);
  }
  problems.push(...findDuplicates(symbols));
  return { symbols, problems };
}

/**
 * Writes symbols in the form of a .config, which does not know our comments, sorted by name, so that the same
 * wishes always give the same bytes.
 */
export function renderConfig(symbols) {
  return symbols
    .map(({ name, value }) => (value === 'n' ? `# ${name} is not set` : `${name}=${value}`))
    .sort()
    .map((line) => `${line}\n`)
    .join('');
}

/**
 * Compares what was asked for with what `make olddefconfig` left of it: it silently drops a symbol whose
 * dependencies are not met, and silently sets one that another selects.
 *
 * @param {{name: string, value: string, where?: string}[]} wanted
 * @param {string} config text of a .config
 * @returns {string[]} one problem for each symbol that did not survive
 */
export function findLost(wanted, config) {
  const got = new Map();
  for (const line of config.split('\n')) {
    const match = /^(CONFIG_[A-Za-z0-9_]+)=(.*)$/.exec(line);
    if (match) got.set(match[1], match[2]);
  }
  return wanted
    .filter(({ name, value }) => (got.get(name) ?? 'n') !== value)
    .map(
      ({ name, value, where }) =>
        `${where ? `${where}: ` : ''}${name}=${value} was asked for, but olddefconfig made it ${got.get(name) ?? 'n'}`,
    );
}
