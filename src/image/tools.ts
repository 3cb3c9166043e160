import { execa, ExecaError } from 'execa';

import { ImageError } from './errors.js';

const PACKAGES: Record<string, string> = {
  bzip2: 'bzip2',
  flock: 'util-linux',
  mknod: 'coreutils',
  rm: 'coreutils',
  sync: 'coreutils',
  tar: 'tar',
  unshare: 'util-linux',
  xargs: 'findutils, and setfattr of attr',
  xz: 'xz-utils',
  zstd: 'zstd',
};

/** What a tool's child process gets: no settings of the user's may change what tar or xz do. */
export function toolEnvironment(): Record<string, string> {
  return { PATH: process.env['PATH'] ?? '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' };
}

/**
 * Runs a program to its end.
 *
 * @throws ImageError ERR_IMAGE_TOOL_MISSING when it is not installed; ERR_IMAGE_NO_SPACE; ERR_IMAGE_STORE when it fails
 */
export async function runTool(
  name: string,
  args: string[],
  options: { input?: Buffer; signal?: AbortSignal | undefined } = {},
): Promise<void> {
  try {
    await execa(name, args, {
      extendEnv: false,
      env: toolEnvironment(),
      stdout: 'ignore',
      ...(options.input ? { input: options.input } : { stdin: 'ignore' as const }),
      ...(options.signal ? { cancelSignal: options.signal } : {}),
    });
  } catch (error) {
    if (isMissing(error)) throw missingTool(name, error);
    if (error instanceof ExecaError && error.isCanceled) {
      throw new ImageError('ERR_IMAGE_ABORTED', `${name}: aborted`, { cause: error });
    }
    const complaint = error instanceof ExecaError ? String(error.stderr) : '';
    throw new ImageError(
      /No space left|quota exceeded/i.test(complaint) ? 'ERR_IMAGE_NO_SPACE' : 'ERR_IMAGE_STORE',
      `${name} failed: ${complaint.trim() || (error as Error).message}`,
      { cause: error },
    );
  }
}

export function isMissing(error: unknown): boolean {
  return error instanceof ExecaError && error.code === 'ENOENT';
}

export function missingTool(name: string, cause: unknown): ImageError {
  return new ImageError(
    'ERR_IMAGE_TOOL_MISSING',
    `cannot find the program ${name}; install ${PACKAGES[name] ?? name}`,
    { cause },
  );
}
