/** What a reader has to know of the machine that was measured on. */
import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs';
import { availableParallelism, release, totalmem } from 'node:os';
import path from 'node:path';

import { PACKAGE_ROOT } from '../vm/native.js';
import type { HostDescription } from './report/types.js';
import type { Place } from './types.js';

const MIB = 2 ** 20;
const SECTOR = 512;

export function describeHost(): HostDescription {
  const cpuinfo = readFileSync('/proc/cpuinfo', 'utf8');
  const { version } = JSON.parse(readFileSync(`${PACKAGE_ROOT}package.json`, 'utf8')) as {
    version: string;
  };
  return {
    cpu: /^model name\s*: (.*)$/m.exec(cpuinfo)?.[1]?.trim() ?? 'unknown',
    cpus: availableParallelism(),
    memoryMiB: Math.round(totalmem() / MIB),
    kernel: release(),
    kvm: describeKvm(cpuinfo, (module) => existsSync(`/sys/module/${module}`)),
    node: process.version,
    clearvm: version,
  };
}

/** Hardware or not, as far as the processor's description says it. */
export function describeKvm(cpuinfo: string, hasModule: (name: string) => boolean): string {
  const flags = /^flags\s*: (.*)$/m.exec(cpuinfo)?.[1]?.split(' ') ?? [];
  const model = /^model name\s*: (.*)$/m.exec(cpuinfo)?.[1] ?? '';
  const module = ['kvm_intel', 'kvm_amd'].find(hasModule);
  if (module === undefined) return 'no hardware virtualization';
  if (/TCG|bochs/i.test(model)) return `${module}, on an emulated processor`;
  return flags.includes('hypervisor') ? `${module}, nested in a virtual machine` : module;
}

/** What lies on the disk before anything is started; the template is one of a VM with one vCPU and no volumes. */
export function diskSizes(place: Place): { name: string; bytes: number }[] {
  const sizes: { name: string; bytes: number }[] = [];
  const add = (name: string, file: string | undefined): void => {
    if (file !== undefined && existsSync(file)) sizes.push({ name, bytes: statSync(file).size });
  };
  add('ClearVM: guest kernel', place.kernel);
  add('ClearVM: initramfs', path.join(path.dirname(place.initramfs), 'initramfs.cpio'));
  const templates = path.join(place.directory, 'clearvm/templates');
  const template = existsSync(templates)
    ? readdirSync(templates).find((name) => /^1-\d+-1-.*\.vm$/.test(name))
    : undefined;
  if (template !== undefined) {
    // Holes take no place.
    const { blocks } = statSync(path.join(templates, template));
    sizes.push({ name: 'ClearVM: template', bytes: blocks * SECTOR });
  }
  add("Distribution's kernel", place.distributionKernel);
  add("Distribution's initrd", place.distributionInitrd);
  add("Workload's image", place.rootArchive);
  return sizes;
}
