/** OCI runtimes called as such, without an engine above: runc, crun, and crun with libkrun. */
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { CommandInstance, versionOf, type CommandLine } from '../command.js';
import type { Instance, Place, Runtime, Workload } from '../types.js';

/** What a container may have besides memory; a fork bomb among the neighbours is to be held by it. */
export const PIDS_LIMIT = 512;
const NAMESPACES = ['pid', 'ipc', 'uts', 'mount', 'network', 'cgroup'];
const MOUNTS = [
  { destination: '/proc', type: 'proc', source: 'proc' },
  { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'mode=755'] },
  {
    destination: '/sys',
    type: 'sysfs',
    source: 'sysfs',
    options: ['nosuid', 'noexec', 'nodev', 'ro'],
  },
];

/** A bundle's config.json: docker's namespaces, and the limits that a VM has by itself. */
export function bundleConfig(
  { words, memoryMiB, volume }: Workload,
  rootDirectory: string,
  cgroup: string,
): object {
  return {
    ociVersion: '1.0.2',
    process: {
      terminal: false,
      user: { uid: 0, gid: 0 },
      args: ['/bench', ...words],
      env: ['PATH=/'],
      cwd: '/',
      noNewPrivileges: true,
    },
    root: { path: rootDirectory, readonly: false },
    hostname: 'bench',
    mounts: [
      ...MOUNTS,
      ...(volume === undefined
        ? []
        : [{ destination: '/volume', type: 'bind', source: volume, options: ['rbind', 'rw'] }]),
    ],
    // What libkrun makes of them; the others do not know them.
    annotations: { 'krun.ram_mib': String(memoryMiB), 'krun.cpus': '1' },
    linux: {
      namespaces: NAMESPACES.map((type) => ({ type })),
      cgroupsPath: cgroup,
      resources: { memory: { limit: memoryMiB * 2 ** 20 }, pids: { limit: PIDS_LIMIT } },
    },
  };
}

export class OciRuntime implements Runtime {
  readonly id: string;
  readonly label: string;
  readonly kind: 'container' | 'vm';
  readonly hasMemorySize: boolean;
  readonly #place: Place;
  #started = 0;

  constructor(id: 'runc' | 'crun' | 'krun', place: Place) {
    this.id = id;
    this.label = id === 'krun' ? 'krun (crun with libkrun)' : id;
    this.kind = id === 'krun' ? 'vm' : 'container';
    this.hasMemorySize = id === 'krun';
    this.#place = place;
  }

  detect(): Promise<string> {
    return versionOf(this.id);
  }

  async prepare(): Promise<void> {
    // The root directory is the benchmark's; a bundle is made for each start.
  }

  refuses(): string | undefined {
    return undefined;
  }

  /** `runc --root DIR run --bundle DIR ID`: in the foreground, so that the caller sees output and status. */
  command(name: string, bundle: string): CommandLine {
    const own = ['--root', path.join(this.#place.runtimeDirectory, this.id)];
    return {
      file: this.id,
      args: [...own, 'run', '--bundle', bundle, name],
      remove: { file: this.id, args: [...own, 'delete', '--force', name] },
    };
  }

  async start(workload: Workload): Promise<Instance> {
    const name = `clearvm-bench-${process.pid}-${this.id}-${this.#started++}`;
    const bundle = path.join(this.#place.directory, 'bundles', name);
    mkdirSync(bundle, { recursive: true });
    const config = bundleConfig(workload, this.#place.rootDirectory, `/${name}`);
    writeFileSync(path.join(bundle, 'config.json'), JSON.stringify(config));
    return new CommandInstance(this.command(name, bundle));
  }

  async close(): Promise<void> {
    // All of it lies in the benchmark's directories.
  }
}
