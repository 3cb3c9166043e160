/** Every runtime that the benchmark knows, in the order of its tables. */
import { ClearVMError } from '../../errors.js';
import { CommandInstance } from '../command.js';
import type { Instance, Place, Runtime, Workload } from '../types.js';
import { ClearVMCommand, ClearVMHost, ClearVMLibrary } from './clearvm.js';
import { Docker, Kata, Podman } from './engines.js';
import { OciRuntime } from './oci.js';
import { CloudHypervisor, Firecracker, QemuMicrovm, QemuPc } from './vmm.js';

/** The bare program: what slowdowns are measured against. Not among those that are compared. */
export class HostRuntime implements Runtime {
  readonly id = 'host';
  readonly label = 'host (no container)';
  readonly kind = 'host';
  readonly hasMemorySize = false;
  readonly #place: Place;

  constructor(place: Place) {
    this.#place = place;
  }

  async detect(): Promise<string> {
    return '';
  }

  async prepare(): Promise<void> {
    // The program is there.
  }

  refuses(): string | undefined {
    return undefined;
  }

  async start({ words, volume = '' }: Workload): Promise<Instance> {
    // What a container sees at /volume or in its root lies elsewhere here.
    const args = words.map((word) =>
      word.startsWith('/volume')
        ? word.replace('/volume', volume)
        : word.replace(/^\//, `${this.#place.rootDirectory}/`),
    );
    return new CommandInstance({ file: this.#place.program, args });
  }

  async close(): Promise<void> {
    // Nothing was made.
  }
}

export const RUNTIME_IDS = [
  'clearvm',
  'clearvm-spare',
  'clearvm-cold',
  'clearvm-cli',
  'crun',
  'runc',
  'podman',
  'docker',
  'qemu-microvm',
  'qemu-pc',
  'firecracker',
  'cloud-hypervisor',
  'krun',
  'kata',
] as const;
export type RuntimeId = (typeof RUNTIME_IDS)[number];

/** Errors: ERR_BENCH_OPTION for a name that is none. */
export function makeRuntimes(names: readonly string[], place: Place): Runtime[] {
  const clearvm = new ClearVMHost(place);
  const makers: Record<RuntimeId, () => Runtime> = {
    clearvm: () => new ClearVMLibrary(clearvm, 'template'),
    'clearvm-spare': () => new ClearVMLibrary(clearvm, 'spare'),
    'clearvm-cold': () => new ClearVMLibrary(clearvm, 'kernel'),
    'clearvm-cli': () => new ClearVMCommand(clearvm),
    crun: () => new OciRuntime('crun', place),
    runc: () => new OciRuntime('runc', place),
    podman: () => new Podman(place),
    docker: () => new Docker(place),
    'qemu-microvm': () => new QemuMicrovm(place),
    'qemu-pc': () => new QemuPc(place),
    firecracker: () => new Firecracker(place),
    'cloud-hypervisor': () => new CloudHypervisor(place),
    krun: () => new OciRuntime('krun', place),
    kata: () => new Kata(place),
  };
  checkNames(names);
  return RUNTIME_IDS.filter((id) => names.includes(id)).map((id) => makers[id]());
}

/** Errors: ERR_BENCH_OPTION. */
export function checkNames(names: readonly string[]): void {
  const unknown = names.find((name) => !(RUNTIME_IDS as readonly string[]).includes(name));
  if (unknown === undefined && names.length > 0) return;
  throw new ClearVMError(
    'ERR_BENCH_OPTION',
    `there is no runtime ${JSON.stringify(unknown ?? '')}: choose of ${RUNTIME_IDS.join(', ')}`,
  );
}
