/** Environment variables as docker's -e and --env-file take them. */
import { readFile } from 'node:fs/promises';

import { ClearVMError, messageOf } from '../errors.js';

export type HostEnvironment = Readonly<Record<string, string | undefined>>;

/** A variable to set, or (with an undefined value) one to take away from the image's environment. */
export interface EnvironmentChange {
  name: string;
  value: string | undefined;
}

/**
 * One `NAME=value`, or `NAME` alone: then the host's value is meant, and where the host has none the image's is dropped.
 * Errors: ERR_ENV.
 */
export function parseVariable(text: string, host: HostEnvironment): EnvironmentChange {
  const equals = text.indexOf('=');
  const name = equals < 0 ? text : text.slice(0, equals);
  if (name === '' || text.includes('\0')) {
    throw new ClearVMError(
      'ERR_ENV',
      `environment: ${JSON.stringify(text)} has no name; write NAME=value, or NAME for the host's value`,
      { field: 'env' },
    );
  }
  return { name, value: equals < 0 ? host[name] : text.slice(equals + 1) };
}

/**
 * The lines of an --env-file: `NAME=value` or `NAME`; blanks before a name are skipped, empty lines and those that
 * begin with # are comments; values are taken as they stand, quotes and blanks included.
 * Errors: ERR_ENV_FILE, naming file and line.
 */
export function parseEnvironmentFile(
  text: string,
  path: string,
  host: HostEnvironment,
): EnvironmentChange[] {
  const changes: EnvironmentChange[] = [];
  const lines = text.replace(/^\ufeff/, '').split('\n');
  lines.forEach((raw, index) => {
    const line = raw.replace(/\r$/, '').trimStart();
    if (line === '' || line.startsWith('#')) return;
    const equals = line.indexOf('=');
    const name = equals < 0 ? line : line.slice(0, equals);
    const fail = (why: string): never => {
      throw new ClearVMError('ERR_ENV_FILE', `${path}, line ${index + 1}: ${why}`, {
        field: 'envFile',
      });
    };
    if (line.includes('\0')) fail('a NUL byte; is this a text file?');
    if (name === '') fail('no variable name before the =');
    if (/\s/.test(name)) fail(`the variable name ${JSON.stringify(name)} contains blanks`);
    if (equals >= 0) changes.push({ name, value: line.slice(equals + 1) });
    // docker leaves a variable alone that the host has not either.
    else if (host[name] !== undefined) changes.push({ name, value: host[name] });
  });
  return changes;
}

/** Reads and parses an --env-file. Errors: ERR_ENV_FILE. */
export async function readEnvironmentFile(
  path: string,
  host: HostEnvironment,
): Promise<EnvironmentChange[]> {
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (cause) {
    throw new ClearVMError('ERR_ENV_FILE', `environment file ${path}: ${messageOf(cause)}`, {
      cause,
      field: 'envFile',
    });
  }
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new ClearVMError('ERR_ENV_FILE', `environment file ${path}: it is not UTF-8 text`, {
      cause,
      field: 'envFile',
    });
  }
  return parseEnvironmentFile(text, path, host);
}

/** The environment with the changes made: a variable keeps its place, new ones go to the end. */
export function applyChanges(
  environment: readonly string[],
  changes: readonly EnvironmentChange[],
): string[] {
  const variables = new Map<string, string>();
  for (const variable of environment) {
    const equals = variable.indexOf('=');
    if (equals > 0) variables.set(variable.slice(0, equals), variable.slice(equals + 1));
  }
  for (const { name, value } of changes) {
    if (value === undefined) variables.delete(name);
    else variables.set(name, value);
  }
  return Array.from(variables, ([name, value]) => `${name}=${value}`);
}
