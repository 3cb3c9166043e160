/** What the parts of the engine share. */
import path from 'node:path';

import { ImageStore } from '../image/index.js';
import { emptyNetwork } from '../network/none.js';
import type { Addon } from '../vm/addon-types.js';
import {
  DEFAULT_INITRD_PATH,
  DEFAULT_KERNEL_PATH,
  DEFAULT_MONITOR_PATH,
  DEFAULT_VMM_PATH,
} from '../vm/native.js';
import { defaultRoot, defaultRuntimeDirectory } from '../user-namespace.js';
import { noteEvents } from './events.js';
import { Spares } from './spares.js';
import { StateStore } from './state.js';
import { TemplateStore } from './templates.js';

/** Where images, containers, templates and volumes of root's are kept. */
export const DEFAULT_ROOT = '/var/lib/clearvm';
/** Where the sockets of root's running containers are. */
export const DEFAULT_RUNTIME_DIRECTORY = '/run/clearvm';

/** Where an engine finds and keeps things; all have defaults. */
export interface EngineOptions {
  /** Images, containers and volumes: $CLEARVM_ROOT, or /var/lib/clearvm; of an ordinary user, ~/.local/share/clearvm. Without commas and colons. */
  root?: string;
  /** What running containers need: $CLEARVM_RUN, or /run/clearvm; of an ordinary user, $XDG_RUNTIME_DIR/clearvm. */
  runtimeDir?: string;
  /** clearvm-vmm: $CLEARVM_VMM, or the one that was built with this package. */
  vmmPath?: string;
  /** clearvm-monitor: $CLEARVM_MONITOR, or the one that was built with this package. */
  monitorPath?: string;
  /** The guest kernel (vmlinux): $CLEARVM_KERNEL, or this package's. */
  kernelPath?: string;
  /** The initramfs: $CLEARVM_INITRD, or this package's. */
  initrdPath?: string;
}

const pick = (given: string | undefined, name: string, fallback: string): string =>
  path.resolve(given || process.env[name] || fallback);

/** Where images, containers and volumes are kept. */
export function rootOf(options: EngineOptions): string {
  return pick(options.root, 'CLEARVM_ROOT', defaultRoot());
}

/** Where running containers have their sockets. */
export function runtimeDirOf(options: EngineOptions): string {
  return pick(options.runtimeDir, 'CLEARVM_RUN', defaultRuntimeDirectory());
}

export class EngineContext {
  readonly root: string;
  readonly runtimeDir: string;
  readonly vmmPath: string;
  readonly monitorPath: string;
  readonly kernelPath: string;
  readonly initrdPath: string;
  readonly images: ImageStore;
  readonly state: StateStore;
  readonly templates: TemplateStore;
  readonly spares: Spares;
  #netns: string | undefined;

  constructor(options: EngineOptions) {
    this.root = rootOf(options);
    this.runtimeDir = runtimeDirOf(options);
    this.vmmPath = pick(options.vmmPath, 'CLEARVM_VMM', DEFAULT_VMM_PATH);
    this.monitorPath = pick(options.monitorPath, 'CLEARVM_MONITOR', DEFAULT_MONITOR_PATH);
    this.kernelPath = pick(options.kernelPath, 'CLEARVM_KERNEL', DEFAULT_KERNEL_PATH);
    this.initrdPath = pick(options.initrdPath, 'CLEARVM_INITRD', DEFAULT_INITRD_PATH);
    this.images = new ImageStore({
      root: path.join(this.root, 'images'),
      onEvent: ({ action, id, name }) =>
        noteEvents(this.root, {
          ...{ type: 'image', action, id },
          attributes: name === undefined ? {} : { name },
        }),
    });
    this.state = new StateStore(this.root, this.runtimeDir);
    this.templates = new TemplateStore(this.root, this.runtimeDir, {
      vmm: this.vmmPath,
      kernel: this.kernelPath,
      initrd: this.initrdPath,
    });
    this.spares = new Spares(this);
  }

  /** The network namespace that VMMs without a network share; undefined where each has to make its own. */
  network(addon: Addon): string | undefined {
    return (this.#netns ??= emptyNetwork(this.runtimeDir, addon));
  }
}
