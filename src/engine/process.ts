/** What a container runs: the image's config and the caller's options, merged as docker does it. */
import { ClearVMError } from '../errors.js';
import type { ImageRunConfig } from '../image/index.js';
import {
  applyChanges,
  parseVariable,
  type EnvironmentChange,
  type HostEnvironment,
} from './environment.js';
import type { RunOptions } from './options.js';

/** What docker gives to images that say nothing about PATH. */
export const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export interface ContainerProcess {
  args: string[];
  /** How many of the arguments are the entrypoint. */
  entrypointLength: number;
  env: string[];
  cwd: string;
  /** "" is root. */
  user: string;
}

/**
 * The arguments: an entrypoint of the caller's drops the image's command too; a command of the caller's replaces the
 * image's and keeps its entrypoint. Errors: ERR_NO_COMMAND.
 */
export function mergeCommand(
  image: ImageRunConfig,
  options: Pick<RunOptions, 'cmd' | 'entrypoint'>,
): Pick<ContainerProcess, 'args' | 'entrypointLength'> {
  const given = typeof options.entrypoint === 'string' ? [options.entrypoint] : options.entrypoint;
  let entrypoint = given ?? image.Entrypoint ?? [];
  if (entrypoint.length === 1 && entrypoint[0] === '') entrypoint = [];
  const hasCommand = options.cmd !== undefined && options.cmd.length > 0;
  const cmd = hasCommand ? options.cmd : given === undefined ? image.Cmd : [];
  const args = [...entrypoint, ...(cmd ?? [])];
  if (args.length === 0) {
    throw new ClearVMError(
      'ERR_NO_COMMAND',
      'there is no command to run: give one behind the image',
      { field: 'cmd' },
    );
  }
  return { args, entrypointLength: entrypoint.length };
}

/** The environment: PATH, HOSTNAME and a terminal's TERM as docker sets them, then the image's, then env files', then the caller's. */
export function mergeEnvironment(
  image: ImageRunConfig,
  hostname: string,
  fileChanges: readonly EnvironmentChange[],
  env: RunOptions['env'],
  host: HostEnvironment,
  tty = false,
): string[] {
  const changes = [...fileChanges];
  if (Array.isArray(env)) {
    for (const text of env as readonly string[]) changes.push(parseVariable(text, host));
  } else if (env) {
    for (const [name, value] of Object.entries(env)) {
      changes.push(parseVariable(`${name}=${value}`, host));
    }
  }
  const own = [`PATH=${DEFAULT_PATH}`, `HOSTNAME=${hostname}`, ...(tty ? ['TERM=xterm'] : [])];
  const base = [...own, ...(image.Env ?? [])];
  return applyChanges(base, changes);
}

/** Everything about the container's process. Errors: ERR_NO_COMMAND, ERR_ENV. */
export function mergeProcess(
  image: ImageRunConfig,
  options: RunOptions,
  hostname: string,
  fileChanges: readonly EnvironmentChange[],
  host: HostEnvironment,
): ContainerProcess {
  return {
    ...mergeCommand(image, options),
    env: mergeEnvironment(image, hostname, fileChanges, options.env, host, options.tty),
    cwd: options.workdir || image.WorkingDir || '/',
    user: options.user || image.User || '',
  };
}
