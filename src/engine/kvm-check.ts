/**
 * Whether /dev/kvm is worth starting a VM on. A device that opens may be software that pretends: then a guest would die in
 * ways that nobody understands, so that `run` refuses. The probe takes a second there, hence the verdict is kept for
 * as long as the host stays up; and where the processor says that it has VT-x or AMD-V, nothing is probed at all.
 */
import { accessSync, constants, mkdirSync, readFileSync, writeFileSync } from 'node:fs';

import { ClearVMError, errnoOf, messageOf } from '../errors.js';
import { isOutside } from '../user-namespace.js';
import { loadAddon } from '../vm/native.js';
import { currentBootId } from './host.js';

export const KVM_DEVICE = '/dev/kvm';

interface Verdict {
  bootId: string;
  verdict: 'hardware' | 'software' | 'unusable';
  reason: string;
}

/** Verdicts "hardware" of this process, by runtime directory: they do not change under a running process. */
const accepted = new Set<string>();

/** Whether the processor announces VT-x or AMD-V. */
export function hasVirtualizationFlag(cpuinfo: string): boolean {
  const flags = /^flags\s*:(.*)$/m.exec(cpuinfo)?.[1] ?? '';
  return / (vmx|svm)\b/.test(flags);
}

/** Errors: ERR_USER_NAMESPACE, ERR_KVM_MISSING, ERR_KVM_PERMISSION, ERR_KVM_SOFTWARE, ERR_KVM_UNUSABLE. */
export function requireKvm(runtimeDirectory: string): void {
  if (isOutside()) {
    throw new ClearVMError(
      'ERR_USER_NAMESPACE',
      "an ordinary user's containers run in a user namespace: call `enterUserNamespace()` first of all in the program, or use the command",
    );
  }
  checkDevice();
  if (accepted.has(runtimeDirectory)) return;
  const { verdict, reason } = findVerdict(runtimeDirectory);
  if (verdict === 'software') {
    throw new ClearVMError(
      'ERR_KVM_SOFTWARE',
      `${KVM_DEVICE} on this host is not hardware virtualization (${reason}): containers cannot run on it; see \`clearvm doctor\`, and use the lab in a checkout: \`npm run lab -- COMMAND\``,
    );
  }
  if (verdict === 'unusable') {
    throw new ClearVMError(
      'ERR_KVM_UNUSABLE',
      `${KVM_DEVICE} cannot run a VM (${reason}); see \`clearvm doctor\``,
    );
  }
  accepted.add(runtimeDirectory);
}

function checkDevice(): void {
  try {
    accessSync(KVM_DEVICE, constants.R_OK | constants.W_OK);
  } catch (cause) {
    const errno = errnoOf(cause);
    if (errno === 'ENOENT') {
      throw new ClearVMError(
        'ERR_KVM_MISSING',
        `${KVM_DEVICE} does not exist: enable virtualization in the firmware and load kvm_intel or kvm_amd; \`clearvm doctor\` says more`,
        { cause },
      );
    }
    throw new ClearVMError(
      'ERR_KVM_PERMISSION',
      errno === 'EACCES' || errno === 'EPERM'
        ? `${KVM_DEVICE} may not be opened by this user: run as root, or join the group kvm; \`clearvm doctor\` says more`
        : `${KVM_DEVICE}: ${messageOf(cause)}; \`clearvm doctor\` says more`,
      { cause },
    );
  }
}

function findVerdict(runtimeDirectory: string): Verdict {
  const bootId = currentBootId();
  const cache = `${runtimeDirectory}/kvm-verdict.json`;
  try {
    const kept = JSON.parse(readFileSync(cache, 'utf8')) as Verdict;
    // Somebody may have repaired what made it unusable.
    if (kept.bootId === bootId && kept.verdict !== 'unusable') return kept;
  } catch {
    // Not there, or not ours: found out anew.
  }
  let found: Verdict;
  if (hasVirtualizationFlag(readFileSync('/proc/cpuinfo', 'latin1'))) {
    found = { bootId, verdict: 'hardware', reason: 'the processor says so' };
  } else {
    const { verdict, reason } = loadAddon().probeKvm(KVM_DEVICE);
    found = { bootId, verdict, reason };
  }
  try {
    mkdirSync(runtimeDirectory, { recursive: true, mode: 0o711 });
    writeFileSync(cache, JSON.stringify(found));
  } catch {
    // Not being able to keep it costs the next run a probe, and says so by itself when state is written.
  }
  return found;
}
