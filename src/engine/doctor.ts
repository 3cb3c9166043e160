/** What a host lacks for running containers, and what to do about it. */
import { accessSync, constants, existsSync, readFileSync, statfsSync, statSync } from 'node:fs';
import { freemem, release } from 'node:os';
import path from 'node:path';

import { errnoOf, messageOf } from '../errors.js';
import type { KvmProbe } from '../vm/addon-types.js';
import { isOutside } from '../user-namespace.js';
import { loadAddon } from '../vm/native.js';
import { diagnoseUser } from './doctor-user.js';
import { bad, ok, type Finding } from './finding.js';
import { KVM_DEVICE, hasVirtualizationFlag } from './kvm-check.js';
import { formatSize } from './size.js';

/** What there is to look at: the engine's paths. */
export interface DoctorSubject {
  root: string;
  runtimeDir: string;
  vmmPath: string;
  kernelPath: string;
  initrdPath: string;
}

/** The oldest Linux that has everything: CLONE_PIDFD, openat2, close_range, overlayfs in a mount namespace. */
const OLDEST_KERNEL = [5, 10] as const;
/** Bytes of disk below which loading an image is likely to fail. */
const LOW_DISK = 1024 ** 3;
/** Bytes of free memory below which a container of default size does not fit. */
const LOW_MEMORY = 512 * 1024 ** 2;
/** KVM_CREATE_VM beyond this many ms is what nx_huge_pages and the cgroup lock cost. */
const SLOW_CREATE_MS = 5;

/** Whether containers can run, as findings say. */
export function isHealthy(findings: readonly Finding[]): boolean {
  return findings.every((finding) => finding.level !== 'error');
}

/** Looks at everything. Takes some seconds where KVM is software. */
export function diagnose(subject: DoctorSubject): Finding[] {
  return [
    ...diagnoseKvm(),
    diagnoseKernelVersion(release()),
    diagnoseOverlay(),
    diagnoseNamespaces(),
    ...(isOutside() ? diagnoseUser(subject.root) : [diagnosePrivileges()]),
    diagnoseCgroups(),
    ...diagnoseHugePages(),
    ...diagnoseFiles(subject),
    ...diagnoseSpace(subject.root),
  ];
}

/** A small file's text without blanks at its ends; undefined where it cannot be read. */
function read(file: string): string | undefined {
  try {
    return readFileSync(file, 'latin1').trim();
  } catch {
    return undefined;
  }
}

function diagnoseKvm(): Finding[] {
  const cpu = hasVirtualizationFlag(read('/proc/cpuinfo') ?? '');
  const findings = [
    cpu
      ? ok('cpu.virtualization', 'the processor announces VT-x or AMD-V')
      : bad(
          'cpu.virtualization',
          'warning',
          'the processor announces neither VT-x (vmx) nor AMD-V (svm)',
          'enable virtualization in the firmware; in a virtual machine, enable nested virtualization on its host',
        ),
  ];
  try {
    accessSync(KVM_DEVICE, constants.R_OK | constants.W_OK);
  } catch (error) {
    findings.push(diagnoseKvmDevice(errnoOf(error), messageOf(error), cpu));
    return findings;
  }
  findings.push(ok('kvm.device', `${KVM_DEVICE} can be opened`));
  let probe: KvmProbe;
  try {
    probe = loadAddon().probeKvm(KVM_DEVICE);
  } catch (error) {
    findings.push(
      bad(
        'addon',
        'error',
        messageOf(error),
        'run `npm install` in the package, or `npm run build` in a checkout',
      ),
    );
    return findings;
  }
  return [...findings, ...judgeProbe(probe)];
}

/** Why /dev/kvm does not open. */
export function diagnoseKvmDevice(errno: string, message: string, cpu: boolean): Finding {
  if (errno === 'ENOENT') {
    return bad(
      'kvm.device',
      'error',
      `${KVM_DEVICE} does not exist`,
      cpu
        ? 'load the module: `modprobe kvm_intel` or `modprobe kvm_amd`; in a container, pass the device in (--device /dev/kvm)'
        : 'this host has no hardware virtualization to offer: use another one, or the lab in a checkout (`npm run lab -- COMMAND`)',
    );
  }
  return bad(
    'kvm.device',
    'error',
    errno === 'EACCES' || errno === 'EPERM'
      ? `${KVM_DEVICE} may not be opened by this user`
      : `${KVM_DEVICE}: ${message}`,
    'run as root, or add the user to the group that owns the device: `usermod -aG kvm USER`, then log in again',
  );
}

/** What the probe's result means. */
export function judgeProbe(probe: KvmProbe): Finding[] {
  const findings: Finding[] = [];
  const speed = `${Math.round(probe.ring0InstructionsPerSecond / 1e6)} million instructions/s in the guest's kernel mode`;
  if (probe.verdict === 'hardware') {
    findings.push(ok('kvm.verdict', `KVM is hardware virtualization (${probe.reason})`));
  } else if (probe.verdict === 'software') {
    findings.push(
      bad(
        'kvm.verdict',
        'error',
        `${KVM_DEVICE} answers, but is no hardware virtualization: ${probe.reason} (${speed})`,
        'containers cannot run here: use a host with VT-x or AMD-V, or the lab in a checkout (`npm run lab -- COMMAND`)',
      ),
    );
  } else {
    const why = probe.error ? `${probe.reason}: ${probe.error.message}` : probe.reason;
    findings.push(
      bad(
        'kvm.verdict',
        'error',
        `${KVM_DEVICE} cannot run a VM: ${why}`,
        'look for KVM messages in `dmesg`; another hypervisor on this host may hold the processor',
      ),
    );
  }
  for (const capability of probe.capabilities) {
    if (capability.required && capability.value === 0) {
      findings.push(
        bad('kvm.capability', 'error', `KVM lacks ${capability.name}`, 'use a newer host kernel'),
      );
    }
  }
  if (probe.verdict === 'hardware' && probe.createVmMs > SLOW_CREATE_MS) {
    findings.push(diagnoseSlowCreate(probe.createVmMs));
  }
  return findings;
}

function diagnoseSlowCreate(createVmMs: number): Finding {
  const nx = read('/sys/module/kvm/parameters/nx_huge_pages');
  const advice =
    nx === 'Y' || nx === 'auto'
      ? 'mount cgroup2 with favordynmods (`mount -o remount,favordynmods /sys/fs/cgroup`); where tenants are trusted, kvm.nx_huge_pages=never does it too'
      : 'mount cgroup2 with favordynmods (`mount -o remount,favordynmods /sys/fs/cgroup`)';
  return bad(
    'kvm.create',
    'warning',
    `creating a VM takes ${createVmMs.toFixed(1)} ms (kvm.nx_huge_pages=${nx ?? 'unknown'})`,
    advice,
  );
}

/** Judges `uname -r`. */
export function diagnoseKernelVersion(version: string): Finding {
  const [major = 0, minor = 0] = version.split('.').map((part) => Number.parseInt(part, 10));
  const [oldMajor, oldMinor] = OLDEST_KERNEL;
  if (major > oldMajor || (major === oldMajor && minor >= oldMinor)) {
    return ok('kernel.version', `Linux ${version}`);
  }
  return bad(
    'kernel.version',
    'error',
    `Linux ${version} is too old`,
    `use Linux ${oldMajor}.${oldMinor} or newer`,
  );
}

function diagnoseOverlay(): Finding {
  if (/\boverlay$/m.test(read('/proc/filesystems') ?? '')) {
    return ok('overlayfs', 'overlayfs is there');
  }
  const module = `/lib/modules/${release()}/kernel/fs/overlayfs`;
  return existsSync(module)
    ? bad(
        'overlayfs',
        'error',
        'overlayfs is not loaded',
        'run `modprobe overlay`, and name it in /etc/modules-load.d',
      )
    : bad(
        'overlayfs',
        'error',
        'this kernel has no overlayfs',
        'use a kernel with CONFIG_OVERLAY_FS',
      );
}

function diagnoseNamespaces(): Finding {
  const missing = ['mnt', 'pid', 'net', 'ipc', 'uts'].filter(
    (name) => !existsSync(`/proc/self/ns/${name}`),
  );
  return missing.length === 0
    ? ok('namespaces', 'mount, pid, network, ipc and uts namespaces are there')
    : bad(
        'namespaces',
        'error',
        `this kernel lacks namespaces: ${missing.join(', ')}`,
        'use a kernel with CONFIG_NAMESPACES and all of its kinds',
      );
}

/** CAP_SYS_ADMIN's bit in the masks of /proc/self/status. */
const CAP_SYS_ADMIN_BIT = 21n;

function diagnosePrivileges(): Finding {
  const mask = /^CapEff:\s*([0-9a-f]+)$/m.exec(read('/proc/self/status') ?? '')?.[1] ?? '0';
  return (BigInt(`0x${mask}`) >> CAP_SYS_ADMIN_BIT) & 1n
    ? ok('privileges', 'this user may make namespaces and mounts')
    : bad(
        'privileges',
        'error',
        'this user may not make namespaces and mounts (no CAP_SYS_ADMIN)',
        'run clearvm as an ordinary user, or as root with its capabilities',
      );
}

function diagnoseCgroups(): Finding {
  const line = (read('/proc/mounts') ?? '').split('\n').find((mount) => / cgroup2 /.test(mount));
  if (line === undefined) {
    return bad(
      'cgroup2',
      'warning',
      'cgroup2 is not mounted',
      'mount it (`mount -t cgroup2 none /sys/fs/cgroup`), for limits on VMMs later',
    );
  }
  const fast = line.includes('favordynmods');
  return ok('cgroup2', `cgroup2 is mounted${fast ? ' with favordynmods' : ''}`);
}

/** The chosen word of a file such as `always [madvise] never`. */
export function chosenWord(text: string | undefined): string | undefined {
  return /\[([a-z_]+)\]/.exec(text ?? '')?.[1];
}

function diagnoseHugePages(): Finding[] {
  const base = '/sys/kernel/mm/transparent_hugepage';
  const enabled = chosenWord(read(`${base}/enabled`));
  const shmem = chosenWord(read(`${base}/shmem_enabled`));
  return [
    enabled === 'always' || enabled === 'madvise'
      ? ok('hugepages.anonymous', `transparent huge pages: ${enabled}`)
      : bad(
          'hugepages.anonymous',
          'warning',
          `transparent huge pages: ${enabled ?? 'not in this kernel'}; VMs start more slowly`,
          `run \`echo madvise > ${base}/enabled\``,
        ),
    shmem === 'advise' || shmem === 'always' || shmem === 'within_size' || shmem === 'force'
      ? ok('hugepages.shared', `transparent huge pages for shared memory: ${shmem}`)
      : bad(
          'hugepages.shared',
          'warning',
          `transparent huge pages for shared memory: ${shmem ?? 'not in this kernel'}; VMs use private memory, which cannot be shared between them`,
          `run \`echo advise > ${base}/shmem_enabled\``,
        ),
  ];
}

function diagnoseFiles(subject: DoctorSubject): Finding[] {
  const check = (id: string, what: string, file: string, mode: number): Finding => {
    try {
      accessSync(file, mode);
      if (!statSync(file).isFile()) throw new Error('it is no regular file');
      return ok(id, `${what}: ${file}`);
    } catch (error) {
      const why = errnoOf(error) === 'ENOENT' ? 'is not there' : messageOf(error);
      return bad(
        id,
        'error',
        `${what}: ${file}: ${why}`,
        'run `npm install` in the package, or `npm run build` in a checkout',
      );
    }
  };
  return [
    check('vmm', 'VMM', subject.vmmPath, constants.X_OK),
    check('guest.kernel', 'guest kernel', subject.kernelPath, constants.R_OK),
    check('guest.initramfs', 'initramfs', subject.initrdPath, constants.R_OK),
  ];
}

function diagnoseSpace(root: string): Finding[] {
  let directory = root;
  while (!existsSync(directory)) directory = path.dirname(directory);
  const disk = statfsSync(directory);
  const free = disk.bavail * disk.bsize;
  const shown = `${(free / 1024 ** 3).toFixed(1)} GiB free for ${root}`;
  const memory = freemem();
  return [
    free >= LOW_DISK
      ? ok('disk', shown)
      : bad('disk', 'warning', shown, 'free some space, or keep images elsewhere with --root'),
    memory >= LOW_MEMORY
      ? ok('memory', `${(memory / 1024 ** 3).toFixed(1)} GiB of memory available`)
      : bad(
          'memory',
          'warning',
          `only ${formatSize(Math.floor(memory / 1024 ** 2) * 1024 ** 2)} of memory available`,
          'give containers less with --memory, or stop something',
        ),
  ];
}
