import { ImageError } from './errors.js';
import type { ImageRunConfig } from './types.js';

const SECOND_NS = 1e9;
const UNITS_NS: Record<string, number> = {
  ns: 1,
  us: 1e3,
  ms: 1e6,
  s: SECOND_NS,
  m: 60 * SECOND_NS,
  h: 3600 * SECOND_NS,
};

/**
 * Applies Dockerfile instructions to a config (an empty one unless given), as `docker import --change` does: CMD, ENTRYPOINT, ENV, EXPOSE,
 * HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR. Variables are not expanded: there is no earlier
 * environment that they could come from.
 *
 * @throws ImageError ERR_IMAGE_CHANGE
 */
export function applyChanges(changes: string[], from: ImageRunConfig = {}): ImageRunConfig {
  const config: ImageRunConfig = structuredClone(from);
  let cmdSet = false;
  for (const change of changes) {
    const match = /^\s*([A-Za-z]+)\s+([^]*?)\s*$/.exec(change);
    const keyword = match?.[1]?.toUpperCase() ?? '';
    const rest = match?.[2] ?? '';
    if (rest === '' || rest.includes('\0')) throw bad(change, 'the form is INSTRUCTION arguments');
    applyOne(config, keyword, rest, change);
    cmdSet ||= keyword === 'CMD';
    // As in a Dockerfile: the arguments were meant for the other program.
    if (keyword === 'ENTRYPOINT' && !cmdSet) delete config.Cmd;
  }
  return config;
}

function applyOne(config: ImageRunConfig, keyword: string, rest: string, change: string): void {
  switch (keyword) {
    case 'CMD':
      config.Cmd = command(rest, change);
      return;
    case 'ENTRYPOINT':
      config.Entrypoint = command(rest, change);
      return;
    case 'ENV':
      config.Env = mergeEnv(config.Env ?? [], pairs(rest, change));
      return;
    case 'LABEL':
      config.Labels = { ...config.Labels, ...Object.fromEntries(pairs(rest, change)) };
      return;
    case 'EXPOSE':
      config.ExposedPorts = { ...config.ExposedPorts, ...setOf(ports(rest, change)) };
      return;
    case 'VOLUME':
      config.Volumes = { ...config.Volumes, ...setOf(list(rest) ?? words(rest, change)) };
      return;
    case 'USER':
      config.User = single(rest, change);
      return;
    case 'WORKDIR':
      config.WorkingDir = workingDir(config.WorkingDir ?? '/', single(rest, change));
      return;
    case 'STOPSIGNAL':
      config.StopSignal = single(rest, change);
      return;
    case 'ONBUILD':
      config.OnBuild = [...(config.OnBuild ?? []), rest];
      return;
    case 'HEALTHCHECK':
      config.Healthcheck = healthcheck(rest, change);
      return;
    default:
      throw bad(change, `${keyword || 'this'} is no instruction that import takes`);
  }
}

/** The JSON form as it is, the shell form as an argument of /bin/sh -c. */
function command(rest: string, change: string): string[] {
  const json = list(rest);
  if (json) return json;
  if (rest.startsWith('[')) throw bad(change, 'the JSON form is ["program", "argument"]');
  return ['/bin/sh', '-c', rest];
}

function list(rest: string): string[] | undefined {
  if (!rest.startsWith('[')) return undefined;
  try {
    const value: unknown = JSON.parse(rest);
    const good = Array.isArray(value) && value.every((item) => typeof item === 'string');
    return good ? (value as string[]) : undefined;
  } catch {
    return undefined;
  }
}

/** `NAME=value NAME2="va lue"`, or the old `NAME the rest`. */
function pairs(rest: string, change: string): [string, string][] {
  const first = /^(\S+?)(=|\s+)/.exec(rest);
  if (!first) throw bad(change, 'the form is NAME=value');
  if (first[2] !== '=') return [[first[1] ?? '', rest.slice(first[0].length)]];
  return words(rest, change).map((word) => {
    const equals = word.indexOf('=');
    if (equals < 1) throw bad(change, `${JSON.stringify(word)} is not NAME=value`);
    return [word.slice(0, equals), word.slice(equals + 1)];
  });
}

/** Words as a Dockerfile has them: single and double quotes, backslashes. */
function words(rest: string, change: string): string[] {
  const found: string[] = [];
  let word: string | undefined;
  let quote = '';
  for (let i = 0; i < rest.length; i++) {
    const c = rest[i] ?? '';
    if (c === '\\' && quote !== "'" && i + 1 < rest.length) {
      word = (word ?? '') + (rest[++i] ?? '');
    } else if (quote !== '') {
      if (c === quote) quote = '';
      else word = (word ?? '') + c;
    } else if (c === '"' || c === "'") {
      quote = c;
      word ??= '';
    } else if (/\s/.test(c)) {
      if (word !== undefined) found.push(word);
      word = undefined;
    } else {
      word = (word ?? '') + c;
    }
  }
  if (quote !== '') throw bad(change, `the quote ${quote} is not closed`);
  if (word !== undefined) found.push(word);
  return found;
}

function single(rest: string, change: string): string {
  const [word, ...more] = words(rest, change);
  if (word === undefined || more.length > 0) throw bad(change, 'it takes one argument');
  return word;
}

function ports(rest: string, change: string): string[] {
  return words(rest, change).flatMap((word) => {
    const match = /^(\d{1,5})(?:-(\d{1,5}))?(?:\/(tcp|udp|sctp))?$/i.exec(word);
    const from = Number(match?.[1]);
    const to = Number(match?.[2] ?? match?.[1]);
    if (!match || from < 1 || to > 65535 || to < from) {
      throw bad(change, `${JSON.stringify(word)} is no port or port/protocol`);
    }
    const protocol = (match[3] ?? 'tcp').toLowerCase();
    return Array.from({ length: to - from + 1 }, (_, i) => `${from + i}/${protocol}`);
  });
}

function workingDir(before: string, next: string): string {
  const parts: string[] = [];
  for (const part of (next.startsWith('/') ? next : `${before}/${next}`).split('/')) {
    if (part === '..') parts.pop();
    else if (part !== '' && part !== '.') parts.push(part);
  }
  return `/${parts.join('/')}`;
}

function healthcheck(rest: string, change: string): NonNullable<ImageRunConfig['Healthcheck']> {
  if (/^NONE$/i.test(rest)) return { Test: ['NONE'] };
  const check: NonNullable<ImageRunConfig['Healthcheck']> = {};
  let text = rest;
  for (;;) {
    const option = /^--([a-z-]+)=(\S+)\s+/.exec(text);
    if (!option) break;
    text = text.slice(option[0].length);
    const [, name, value = ''] = option;
    if (name === 'interval') check.Interval = duration(value, change);
    else if (name === 'timeout') check.Timeout = duration(value, change);
    else if (name === 'start-period') check.StartPeriod = duration(value, change);
    else if (name === 'retries' && /^\d+$/.test(value)) check.Retries = Number(value);
    else throw bad(change, `--${name ?? ''}=${value} is no option of HEALTHCHECK`);
  }
  const match = /^CMD\s+([^]+)$/i.exec(text);
  if (!match)
    throw bad(change, 'the form is HEALTHCHECK [options] CMD command, or HEALTHCHECK NONE');
  const rawCommand = match[1] ?? '';
  const json = list(rawCommand);
  check.Test = json ? ['CMD', ...json] : ['CMD-SHELL', rawCommand];
  return check;
}

/** A Go duration ("1m30s") in nanoseconds. */
function duration(text: string, change: string): number {
  if (!/^(?:\d+(?:\.\d+)?(?:ns|us|ms|s|m|h))+$/.test(text)) {
    throw bad(change, `${JSON.stringify(text)} is no duration such as 30s or 1m30s`);
  }
  let sum = 0;
  for (const [, number, unit] of text.matchAll(/(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)/g)) {
    sum += Number(number) * (UNITS_NS[unit ?? ''] ?? 0);
  }
  return Math.round(sum);
}

function mergeEnv(env: string[], added: [string, string][]): string[] {
  const merged = [...env];
  for (const [name, value] of added) {
    const at = merged.findIndex((entry) => entry.startsWith(`${name}=`));
    if (at >= 0) merged[at] = `${name}=${value}`;
    else merged.push(`${name}=${value}`);
  }
  return merged;
}

function setOf(keys: string[]): Record<string, object> {
  return Object.fromEntries(keys.map((key) => [key, {}]));
}

function bad(change: string, why: string): ImageError {
  return new ImageError(
    'ERR_IMAGE_CHANGE',
    `cannot apply the change ${JSON.stringify(change)}: ${why}`,
  );
}
