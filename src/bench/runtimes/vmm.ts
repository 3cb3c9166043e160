/** VMMs that boot a kernel whose init is the workload: QEMU, Firecracker, cloud-hypervisor. No agent, no container in it. */
import { appendFileSync, copyFileSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { CommandInstance, unavailable, versionOf, type CommandLine } from '../command.js';
import type { Instance, Place, Runtime, Workload } from '../types.js';

const QEMU = 'qemu-system-x86_64';
/** Of a machine that has them all, those that nobody needs cost a wait for an answer each. */
const MICROVM = 'microvm,acpi=off,x-option-roms=off,pic=off,pit=off,rtc=off,isa-serial=off';
const QUIET = ['-no-user-config', '-display', 'none', '-no-reboot', '-smp', '1'];

/** The workload's words for the init of rootfs/bench.c: `--` would not do, QEMU appends its devices to the line. */
export function kernelCommandLine(
  console: string,
  workload: Workload,
  more: readonly string[],
): string {
  return [
    ...[`console=${console}`, 'quiet', 'panic=-1', ...more],
    `clearvm_bench=${workload.words.join(',')}`,
    ...(workload.volume === undefined ? [] : ['clearvm_volume=1']),
  ].join(' ');
}

abstract class VmRuntime implements Runtime {
  abstract readonly id: string;
  abstract readonly label: string;
  readonly kind = 'vm';
  readonly hasMemorySize = true;
  protected readonly place: Place;

  constructor(place: Place) {
    this.place = place;
  }

  abstract detect(): Promise<string>;
  abstract command(workload: Workload): CommandLine;

  async prepare(): Promise<void> {
    // Kernel and initramfs are there.
  }

  /** A kernel without 9P, and an initramfs for a root: only ours can mount a volume, and none has a root on the disk. */
  refuses({ volume, words }: Workload): string | undefined {
    if (volume !== undefined) return 'its kernel cannot mount a directory of the host';
    return usesRoot(words) ? 'its root is in memory: there is nothing to measure' : undefined;
  }

  async start(workload: Workload): Promise<Instance> {
    return new CommandInstance(this.command(workload));
  }

  async close(): Promise<void> {
    // Nothing was made.
  }
}

function usesRoot(words: readonly string[]): boolean {
  const directory = words[1] ?? '';
  return directory.startsWith('/') && !directory.startsWith('/volume');
}

/** QEMU's smallest machine with ClearVM's guest kernel, entered by PVH. */
export class QemuMicrovm extends VmRuntime {
  readonly id = 'qemu-microvm';
  readonly label = 'QEMU microvm';

  detect(): Promise<string> {
    return versionOf(QEMU);
  }

  override refuses({ words }: Workload): string | undefined {
    return usesRoot(words) ? 'its root is in memory: there is nothing to measure' : undefined;
  }

  command(workload: Workload): CommandLine {
    const tuned = ['reboot=t', 'percpu_alloc=page', 'noreplace-smp', 'no_timer_check'];
    const volume =
      workload.volume === undefined
        ? []
        : [
            '-fsdev',
            `local,id=volume,path=${workload.volume},security_model=none,multidevs=remap`,
            '-device',
            'virtio-9p-device,fsdev=volume,mount_tag=volume',
          ];
    return {
      file: QEMU,
      args: [
        ...['-M', MICROVM, '-accel', 'kvm', '-cpu', 'host', '-nodefaults', ...QUIET],
        ...['-m', String(workload.memoryMiB)],
        ...['-kernel', this.place.kernel, '-initrd', this.place.initramfs],
        ...['-append', kernelCommandLine('hvc0', workload, tuned)],
        ...['-chardev', 'stdio,id=console,signal=off', '-device', 'virtio-serial-device'],
        ...['-device', 'virtconsole,chardev=console', ...volume],
      ],
    };
  }
}

/** QEMU's PC: BIOS, its default devices but the network's, a distribution's kernel. */
export class QemuPc extends VmRuntime {
  readonly id = 'qemu-pc';
  readonly label = 'QEMU pc (BIOS)';
  #initrd = '';

  async detect(): Promise<string> {
    const version = await versionOf(QEMU);
    requireKernel(this.place);
    return version;
  }

  /** The kernel unpacks one archive after another, so that the workload's init takes the place of the distribution's. */
  override async prepare(): Promise<void> {
    const { distributionInitrd: initrd, initramfs, directory } = this.place;
    this.#initrd = initramfs;
    if (initrd === undefined) return;
    this.#initrd = path.join(directory, 'initrd');
    copyFileSync(initrd, this.#initrd);
    appendFileSync(this.#initrd, Buffer.alloc((4 - (statSync(initrd).size % 4)) % 4));
    appendFileSync(this.#initrd, readFileSync(initramfs));
  }

  command(workload: Workload): CommandLine {
    return {
      file: QEMU,
      args: [
        ...['-M', 'pc', '-accel', 'kvm', '-cpu', 'host', '-nic', 'none', ...QUIET],
        ...['-monitor', 'none', '-serial', 'stdio', '-m', String(workload.memoryMiB)],
        ...['-kernel', this.place.distributionKernel ?? '', '-initrd', this.#initrd],
        ...['-append', kernelCommandLine('ttyS0', workload, [])],
      ],
    };
  }
}

export class CloudHypervisor extends VmRuntime {
  readonly id = 'cloud-hypervisor';
  readonly label = 'Cloud Hypervisor';

  async detect(): Promise<string> {
    const version = await versionOf('cloud-hypervisor');
    requireKernel(this.place);
    return version;
  }

  command(workload: Workload): CommandLine {
    return {
      file: 'cloud-hypervisor',
      args: [
        ...['--kernel', this.place.distributionKernel ?? '', '--initramfs', this.place.initramfs],
        // It starts a guest that resets itself again.
        ...['--cmdline', kernelCommandLine('ttyS0', workload, ['clearvm_poweroff=1'])],
        ...['--cpus', 'boot=1', '--memory', `size=${workload.memoryMiB}M`],
        ...['--serial', 'tty', '--console', 'off'],
      ],
    };
  }
}

export class Firecracker extends VmRuntime {
  readonly id = 'firecracker';
  readonly label = 'Firecracker';
  #configs = 0;

  async detect(): Promise<string> {
    const version = await versionOf('firecracker');
    if (this.place.firecrackerKernel === undefined) {
      throw unavailable('it needs a kernel with a serial console: --firecracker-kernel VMLINUX');
    }
    return version;
  }

  command(workload: Workload): CommandLine {
    const file = path.join(this.place.directory, `firecracker-${this.#configs++}.json`);
    const more = ['reboot=k', 'pci=off'];
    const config = {
      'boot-source': {
        kernel_image_path: this.place.firecrackerKernel,
        initrd_path: this.place.initramfs,
        boot_args: kernelCommandLine('ttyS0', workload, more),
      },
      drives: [],
      'machine-config': { vcpu_count: 1, mem_size_mib: workload.memoryMiB },
    };
    writeFileSync(file, JSON.stringify(config));
    return { file: 'firecracker', args: ['--no-api', '--config-file', file] };
  }
}

function requireKernel({ distributionKernel }: Place): void {
  if (distributionKernel === undefined) {
    throw unavailable('no /boot/vmlinuz-* is there: name a kernel by --qemu-kernel FILE');
  }
}
