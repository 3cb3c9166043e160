import fs from 'node:fs/promises';
import path from 'node:path';

import { lock, type Lock } from './lock.js';
import { runTool } from './tools.js';

/**
 * A private directory under the store's tmp/, locked while its owner lives. Everything is prepared there and moved
 * to its place by rename, so that whatever goes wrong leaves the store as it was.
 */
export class Workspace {
  private constructor(
    readonly path: string,
    readonly lock: Lock,
    /** Others died at their work, and may have left more than their workspaces. */
    readonly foundStale: boolean,
  ) {}

  /** Removes what dead processes left in `tmp`, then makes a new directory in it. */
  static async open(tmp: string): Promise<Workspace> {
    const foundStale = await removeStale(tmp);
    for (;;) {
      const directory = await fs.mkdtemp(path.join(tmp, 'op-'));
      const held = await lock(directory);
      // Between the two lines above another process may have taken the directory for an abandoned one.
      const exists = await fs.stat(directory).catch(() => undefined);
      if (exists?.isDirectory()) return new Workspace(directory, held, foundStale);
      // Then flock(1) has made a file of that name.
      await fs.rm(directory, { force: true });
      await held.release();
    }
  }

  /** The path of `name` in the workspace. */
  at(...name: string[]): string {
    return path.join(this.path, ...name);
  }

  /** Removes everything that was not moved out. */
  async close(): Promise<void> {
    try {
      await removeTree(this.path);
    } finally {
      await this.lock.release();
    }
  }
}

/** rm, because Node's own goes by path names, which a hostile tree can make longer than the kernel takes. */
export async function removeTree(directory: string): Promise<void> {
  await runTool('rm', ['-rf', '--', directory]);
}

/** Removes the workspaces whose owners are dead, which is to say: whose locks can be had. */
async function removeStale(tmp: string): Promise<boolean> {
  const names = await fs.readdir(tmp);
  for (const name of names) {
    const directory = path.join(tmp, name);
    const args = ['--exclusive', '--nonblock', '--conflict-exit-code', '0', directory];
    // A tree that does not go away now (a last tar of the dead owner still writes) goes next time.
    await runTool('flock', [...args, 'rm', '-rf', '--', directory]).catch(() => undefined);
  }
  if (names.length === 0) return false;
  const left = new Set(await fs.readdir(tmp));
  return names.some((name) => !left.has(name));
}
