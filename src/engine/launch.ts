/** A kept container's start: its VMM's command line, and the request to its monitor. */
import path from 'node:path';

import { shareTag, type VmConfig } from '../vm/config.js';
import { loadAddon } from '../vm/native.js';
import type { OciSpec } from '../vm/spec.js';
import { vmmCommandLine } from '../vm/vmm.js';
import type { EngineContext } from './context.js';
import { journalOf } from './events.js';
import { encodeHealth } from './health.js';
import { requireKvm } from './kvm-check.js';
import { encodeStartRequest, startMonitor } from './monitor.js';
import { encodePlan, shapeOf } from './plan.js';
import type { ContainerRecord } from './record.js';
import type { ContainerDirectories } from './state.js';

/** A snapshot that a VM goes on from. */
export interface RestoreFrom {
  /** Absolute path of the VMM's file. */
  machine: string;
  /** Of the file that says that its memory was checked. */
  checked: string;
  /** 9p devices that the VM had. */
  devices: number;
}

/**
 * Starts a container's monitor, and returns when its command runs. `client`: the descriptor of a connected client; -1: none.
 * `restore`: what the first run goes on from; those after it begin anew. Errors: those of `Engine.run`; ERR_MONITOR_SPAWN;
 * ERR_CONTAINER_RUNNING (it has a monitor); ERR_SNAPSHOT_DAMAGED, ERR_SNAPSHOT_FOREIGN, ERR_SNAPSHOT_FILES.
 */
export async function launch(
  context: EngineContext,
  places: ContainerDirectories,
  { record, config, spec }: { record: ContainerRecord; config: VmConfig; spec: OciSpec },
  client: number,
  restore?: RestoreFrom,
): Promise<void> {
  const { templates, vmmPath, monitorPath, kernelPath, initrdPath, state } = context;
  const payload = encodePlan({ config, spec, record });
  requireKvm(context.runtimeDir);
  const addon = loadAddon();
  const shape = shapeOf(config);
  const netns = context.network(addon);
  const template = config.debug || config.template === false ? undefined : templates.find(shape);
  const common = {
    stdin: record.openStdin || record.tty,
    terminal: record.tty,
    ...(netns === undefined ? {} : { netns }),
  };
  const args = vmmCommandLine(config, { ...common, ...(template ? { template } : {}) });
  const volumes = record.mounts.flatMap(({ source, anonymous }) =>
    anonymous ? [path.dirname(source)] : [],
  );
  const remove = record.autoRemove
    ? [state.names.pathOf(record.name), ...volumes, places.dataDirectory, places.runDirectory]
    : [];
  const request = encodeStartRequest({
    ...{ record, vmmPath, args, kernelPath, initrdPath, spec: payload, remove },
    ...(restore ? { firstArgs: restoring(vmmCommandLine(config, common), config, restore) } : {}),
    events: journalOf(context.root),
    health: record.health && encodeHealth(record.health, spec),
  });
  const monitor = { ...places, file: monitorPath, client };
  const { forked } = await startMonitor(addon, monitor, request);
  if (!forked && template) templates.makeSoon(shape);
}

function restoring(args: string[], config: VmConfig, restore: RestoreFrom): string[] {
  // The guest has found these devices when it was booted.
  const spare = [];
  for (let i = 1 + config.shares.length; i < restore.devices; i++) {
    spare.push('--unserved', shareTag(i));
  }
  return [...args, ...spare, '--restore', restore.machine, '--restore-checked', restore.checked];
}
