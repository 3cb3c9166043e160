/** Container engines above a runtime: docker, podman, and Kata Containers through docker. */
import path from 'node:path';

import { execa } from 'execa';

import { CommandInstance, unavailable, versionOf, type CommandLine } from '../command.js';
import type { Instance, Place, Runtime, Workload } from '../types.js';
import { PIDS_LIMIT } from './oci.js';

/** What both take in the same words. */
function runOptions({ memoryMiB, volume }: Workload, name: string): string[] {
  return [
    ...['run', '--rm', '--name', name, '--network', 'none'],
    ...['--memory', `${memoryMiB}m`, '--pids-limit', String(PIDS_LIMIT)],
    ...(volume === undefined ? [] : ['--volume', `${volume}:/volume`]),
  ];
}

abstract class EngineRuntime implements Runtime {
  abstract readonly id: string;
  abstract readonly label: string;
  readonly kind: 'container' | 'vm' = 'container';
  readonly hasMemorySize: boolean = false;
  protected readonly place: Place;
  #started = 0;

  constructor(place: Place) {
    this.place = place;
  }

  abstract detect(): Promise<string>;
  abstract command(workload: Workload, name: string): CommandLine;

  async prepare(): Promise<void> {
    // What it runs is there.
  }

  refuses(): string | undefined {
    return undefined;
  }

  async start(workload: Workload): Promise<Instance> {
    const name = `clearvm-bench-${process.pid}-${this.id}-${this.#started++}`;
    return new CommandInstance(this.command(workload, name));
  }

  async close(): Promise<void> {
    // All of it lies in the benchmark's directories.
  }
}

/** podman with a store of its own, and the root file system as a directory: no image is made. */
export class Podman extends EngineRuntime {
  readonly id = 'podman';
  readonly label = 'podman';

  detect(): Promise<string> {
    return versionOf('podman');
  }

  command(workload: Workload, name: string): CommandLine {
    const own = [
      ...['--root', path.join(this.place.directory, 'podman')],
      ...['--runroot', path.join(this.place.runtimeDirectory, 'podman')],
    ];
    const pids = ['container', 'inspect', '--format', '{{.State.Pid}} {{.State.ConmonPid}}', name];
    return {
      file: 'podman',
      args: [
        ...[...own, ...runOptions(workload, name), '--rootfs', this.place.rootDirectory],
        ...['/bench', ...workload.words],
      ],
      remove: { file: 'podman', args: [...own, 'rm', '--force', '--time', '0', name] },
      morePids: async () => numbers((await execa('podman', [...own, ...pids])).stdout),
    };
  }
}

/** docker's daemon is shared by all containers; the shim of each is counted, the daemon is not. */
export class Docker extends EngineRuntime {
  readonly id: string = 'docker';
  readonly label: string = 'docker';
  protected readonly runtimeOptions: string[] = [];
  protected readonly image = `clearvm-bench:${process.pid}`;

  async detect(): Promise<string> {
    const version = await versionOf('docker', ['version', '--format', '{{.Server.Version}}']);
    return `docker ${version}`;
  }

  override async prepare(): Promise<void> {
    await execa('docker', ['import', this.place.rootArchive, this.image]);
  }

  command(workload: Workload, name: string): CommandLine {
    const pid = ['container', 'inspect', '--format', '{{.State.Pid}}', name];
    return {
      file: 'docker',
      args: [
        ...[...runOptions(workload, name), ...this.runtimeOptions],
        ...[this.image, '/bench', ...workload.words],
      ],
      remove: { file: 'docker', args: ['rm', '--force', name] },
      morePids: async () => {
        const [container] = numbers((await execa('docker', pid)).stdout);
        if (container === undefined) return [];
        const { stdout } = await execa('ps', ['-o', 'ppid=', '-p', String(container)]);
        return [container, ...numbers(stdout)];
      },
    };
  }

  override async close(): Promise<void> {
    await execa('docker', ['rmi', '--force', this.image], { reject: false });
  }
}

export class Kata extends Docker {
  override readonly id = 'kata';
  override readonly label = 'Kata Containers (docker)';
  override readonly kind = 'vm';
  override readonly hasMemorySize = true;
  protected override readonly runtimeOptions = ['--runtime', 'io.containerd.kata.v2'];
  protected override readonly image = `clearvm-bench-kata:${process.pid}`;

  override async detect(): Promise<string> {
    const version = await versionOf('containerd-shim-kata-v2');
    await super.detect().catch(() => {
      throw unavailable('it is started through docker, whose daemon does not answer');
    });
    return version;
  }
}

function numbers(text: string): number[] {
  return [...text.matchAll(/\d+/g)].map(([digits]) => Number(digits)).filter((pid) => pid > 1);
}
