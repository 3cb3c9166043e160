/** docker's options about what a container may do and has: capabilities, limits, memory file systems, hosts. */
import { isIP } from 'node:net';

import { ClearVMError } from '../errors.js';
import { CAPABILITIES, RLIMITS } from '../vm/constants.js';
import type { OciMount } from '../vm/spec.js';
import { parseSize } from './size.js';

export interface Rlimit {
  type: string;
  soft: number;
  hard: number;
}

/** The largest number that is both a double and a uint64, which is what readers of the JSON take it for. */
export const UNLIMITED = 2 ** 64 - 2048;

function fail(code: string, field: string, why: string): never {
  throw new ClearVMError(code, why, { field });
}

/** The default set with some added and some dropped; `ALL` is every one, names go with CAP_ or without. Errors: ERR_CAPABILITY. */
export function capabilities(
  defaults: readonly string[],
  add: readonly string[],
  drop: readonly string[],
): readonly string[] {
  if (add.length === 0 && drop.length === 0) return defaults;
  const normal = (field: string) => (text: string) => {
    const upper = text.toUpperCase();
    const name = upper === 'ALL' || upper.startsWith('CAP_') ? upper : `CAP_${upper}`;
    if (name !== 'ALL' && !CAPABILITIES.includes(name)) {
      fail('ERR_CAPABILITY', field, `invalid ${field}: unknown capability: "${name}"`);
    }
    return name;
  };
  const added = add.map(normal('capAdd'));
  const dropped = drop.map(normal('capDrop'));
  // As docker has it: ALL that are added, without those that are dropped by name; or none but those that are added.
  if (added.includes('ALL')) return CAPABILITIES.filter((name) => !dropped.includes(name));
  const kept = dropped.includes('ALL') ? [] : defaults.filter((name) => !dropped.includes(name));
  return [...new Set([...kept, ...added])];
}

/** `nofile=1024:2048`, `core=-1`. Errors: ERR_ULIMIT. */
export function parseUlimit(text: string): Rlimit {
  const [, name = '', soft = '', hard = soft] = /^(\w+)=(-?\d+)(?::(-?\d+))?$/.exec(text) ?? [];
  const type = `RLIMIT_${name.toUpperCase()}`;
  if (soft === '') {
    fail('ERR_ULIMIT', 'ulimits', `invalid ulimit argument: ${text}; the form is TYPE=SOFT[:HARD]`);
  }
  if (!Object.hasOwn(RLIMITS, type)) {
    fail('ERR_ULIMIT', 'ulimits', `invalid ulimit argument: ${text}: invalid ulimit type: ${name}`);
  }
  const number = (value: string): number => (value === '-1' ? UNLIMITED : Number(value));
  if (number(soft) > number(hard)) {
    fail(
      'ERR_ULIMIT',
      'ulimits',
      `ulimit soft limit must be less than or equal to hard limit: ${soft} > ${hard}`,
    );
  }
  return { type, soft: number(soft), hard: number(hard) };
}

/** Replaces those of the same type. */
export function mergeRlimits(
  defaults: readonly Rlimit[],
  given: readonly Rlimit[],
): readonly Rlimit[] {
  if (given.length === 0) return defaults;
  const types = new Set(given.map(({ type }) => type));
  return [...defaults.filter(({ type }) => !types.has(type)), ...given];
}

const TMPFS_OPTIONS =
  /^(ro|rw|suid|nosuid|dev|nodev|exec|noexec|noatime|relatime|size=\d+[kmgKMG%]?|mode=[0-7]{1,4}|uid=\d+|gid=\d+|nr_inodes=\d+[kmg]?|nr_blocks=\d+[kmg]?)$/;

/** `/path[:options]`. Errors: ERR_TMPFS. */
export function parseTmpfs(text: string): OciMount {
  const colon = text.indexOf(':');
  const destination = (colon < 0 ? text : text.slice(0, colon)).replace(/(?<=.)\/+$/, '');
  const given =
    colon < 0
      ? []
      : text
          .slice(colon + 1)
          .split(',')
          .filter(Boolean);
  if (!destination.startsWith('/') || destination === '/' || /\/\.\.(\/|$)|\0/.test(destination)) {
    fail(
      'ERR_TMPFS',
      'tmpfs',
      `invalid tmpfs ${JSON.stringify(text)}: an absolute path is needed, and not /`,
    );
  }
  for (const option of given) {
    if (!TMPFS_OPTIONS.test(option)) {
      fail('ERR_TMPFS', 'tmpfs', `invalid tmpfs option ${JSON.stringify(option)}`);
    }
  }
  return {
    destination,
    type: 'tmpfs',
    source: 'tmpfs',
    options: ['noexec', 'nosuid', 'nodev', ...given],
  };
}

/** /dev/shm of another size. Errors: ERR_SHM_SIZE. */
export function shmMount(size: string | number): OciMount {
  const bytes = typeof size === 'number' ? size : parseSize(size);
  if (bytes === undefined || !Number.isSafeInteger(bytes) || bytes <= 0) {
    fail(
      'ERR_SHM_SIZE',
      'shmSize',
      `invalid shm size ${JSON.stringify(size)}: write a number with k, m or g`,
    );
  }
  const options = ['nosuid', 'noexec', 'nodev', 'mode=1777', `size=${bytes}`];
  return { destination: '/dev/shm', type: 'tmpfs', source: 'shm', options };
}

/** `name:address` (or `name=address`) as lines of /etc/hosts. Errors: ERR_ADD_HOST. */
export function hostLines(given: readonly string[]): string {
  return given
    .map((text) => {
      const [, name = '', address = ''] = /^([^:=\s]+)[:=](.+)$/.exec(text) ?? [];
      const bare = address.replace(/^\[(.*)\]$/, '$1');
      if (isIP(bare) === 0) {
        fail(
          'ERR_ADD_HOST',
          'addHosts',
          `bad format for add-host: ${JSON.stringify(text)}; the form is NAME:ADDRESS`,
        );
      }
      return `${bare}\t${name}\n`;
    })
    .join('');
}
