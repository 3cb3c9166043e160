/** Everything about a container that is decided before anything is made on the host. */
import { ClearVMError } from '../errors.js';
import { ImageError, isReference, type ResolvedImage } from '../image/index.js';
import { noNetworkFiles } from '../network/none.js';
import { isRootless } from '../user-namespace.js';
import { checkVmConfig, type VmConfig } from '../vm/config.js';
import { checkOciSpec, encodeSpec, type BindShare, type OciSpec } from '../vm/spec.js';
import type { TimelineRecorder } from '../vm/timings.js';
import type { EngineContext } from './context.js';
import { readEnvironmentFile } from './environment.js';
import { mergeHealth } from './health.js';
import { randomBytes } from './host.js';
import { requireKvm } from './kvm-check.js';
import { parseLogConfig, parseRestartPolicy, parseStopTimeout } from './lifecycle-options.js';
import { checkRunOptions, type AbortSource, type RunOptions } from './options.js';
import { mergeProcess } from './process.js';
import type { ContainerRecord, MountRecord } from './record.js';
import { findContainer } from './lookup.js';
import { hostLines } from './resources.js';
import { buildRuntimeSpec, variablePart } from './runtime-spec.js';
import { checkHugePages, parseCpus, parseMemory, parseMemoryReservation } from './size.js';
import type { TemplateShape } from './templates.js';
import {
  imageVolumes,
  parseVolume,
  resolveVolumes,
  type Volume,
  type VolumeOptions,
} from './volumes.js';

/** Guest memory of a container for which none is asked. */
export const DEFAULT_MEMORY = '512m';
/** Its virtual CPUs. */
export const DEFAULT_CPUS = 1;

export interface Plan {
  config: VmConfig;
  spec: OciSpec;
  /** Its name is the one that was asked for, or ''. */
  record: ContainerRecord;
  image: ResolvedImage;
}

/**
 * Checks options and image. Errors: ERR_RUN_OPTIONS and the codes of single options; the image store's; ERR_KVM_MISSING,
 * ERR_KVM_PERMISSION, ERR_KVM_SOFTWARE; ERR_VM_CONFIG, ERR_OCI_SPEC.
 */
export async function planContainer(
  context: EngineContext,
  reference: string,
  options: RunOptions,
  timeline?: TimelineRecorder,
): Promise<Plan> {
  checkRunOptions(options);
  options.signal?.throwIfAborted();
  const memory = parseMemory(options.memory ?? DEFAULT_MEMORY);
  if (options.hugepages) checkHugePages(memory, options.memoryReservation);
  const memoryReservation = parseMemoryReservation(options.memoryReservation, memory);
  const processors = parseCpus(options.cpus ?? DEFAULT_CPUS);
  const lifecycle = {
    restart: parseRestartPolicy(options.restart, options.autoRemove ?? false),
    log: parseLogConfig(options.logDriver, options.logOptions),
    ...parseStopTimeout(options),
  };
  const own = (options.volumes ?? []).map((volume) =>
    typeof volume === 'string' ? parseVolume(volume) : volume,
  );
  const wanted = [...own, ...volumesFrom(context.root, options, own)];
  const fileChanges = [];
  for (const file of options.envFile === undefined ? [] : [options.envFile].flat()) {
    fileChanges.push(...(await readEnvironmentFile(file, process.env)));
  }
  const image = await resolveImage(context, reference, options);
  timeline?.mark('image.resolved');

  requireKvm(context.runtimeDir);
  const id = randomBytes(32).toString('hex');
  const hostname = options.hostname ?? id.slice(0, 12);
  const runConfig = image.config.config ?? {};
  const merged = mergeProcess(runConfig, options, hostname, fileChanges, process.env);
  const health = mergeHealth(runConfig, options.healthcheck);
  const assemble = (volumes: MountRecord[]): Plan => {
    const state = `${context.root}/containers/${id}`;
    const spec = buildRuntimeSpec({
      process: merged,
      hostname,
      tty: options.tty ?? false,
      ...(options.size ? { size: options.size } : {}),
      image: image.config,
      volumes,
      options,
      rootPath: `${state}/merged`,
    });
    const config: VmConfig = {
      version: 1,
      id,
      ...processors,
      memory,
      ...(options.cpusetCpus ? { cpusetCpus: options.cpusetCpus } : {}),
      ...(memoryReservation ? { memoryReservation } : {}),
      kernel: context.kernelPath,
      initrd: context.initrdPath,
      ...(options.debug ? { debug: true } : {}),
      ...(options.hugepages ? { memoryBacking: 'hugepages' } : {}),
      // A template's memory is shared pages of a file.
      ...(options.template === false || options.hugepages ? { template: false } : {}),
      ...(options.statistics ? { statistics: true } : {}),
      image: { reference, id: image.id },
      root: {
        layers: image.layersDir,
        lower: image.lower,
        base: context.state.baseDirectory,
        state,
        ...(isRootless() ? { userXattrs: true } : {}),
        ...(options.privateFiles ? { privateFiles: true } : {}),
      },
      shares: volumes.map((volume, index) => ({
        tag: `vol${index}`,
        path: volume.source,
        ...(volume.readOnly ? { readOnly: true } : {}),
      })),
      files: noNetworkFiles(hostname, hostLines(options.addHosts ?? [])),
    };
    const stdin = (options.stdin ?? 'ignore') !== 'ignore';
    const workdir = options.workdir || runConfig.WorkingDir;
    const record: ContainerRecord = {
      version: 1,
      id,
      name: options.name ?? '',
      created: new Date().toISOString(),
      image: { reference, id: image.id },
      args: merged.args,
      ...(merged.entrypointLength > 0 ? { entrypointLength: merged.entrypointLength } : {}),
      ...(workdir ? { workdir } : {}),
      labels: { ...runConfig.Labels, ...options.labels },
      tty: options.tty ?? false,
      openStdin: stdin,
      stdinOnce: stdin,
      autoRemove: options.autoRemove ?? false,
      ...lifecycle,
      mounts: volumes,
    };
    if (health) record.health = health;
    const stopSignal = options.stopSignal ?? runConfig.StopSignal;
    if (stopSignal !== undefined) record.stopSignal = stopSignal;
    checkVmConfig(config);
    checkOciSpec(variablePart(spec));
    return { config, spec, record, image };
  };
  const resolved = resolveVolumes(wanted, process.cwd());
  const volumes = await makeVolumes(
    context,
    [...resolved, ...imageVolumes(runConfig, resolved, options.tmpfs)],
    image,
  );
  try {
    return assemble(volumes);
  } catch (error) {
    await removeAnonymousVolumes(context.root, { mounts: volumes });
    throw error;
  }
}

/** Makes the volumes that are missing, and fills those that are empty with what the image has in their places. */
async function makeVolumes(
  context: EngineContext,
  volumes: readonly Volume[],
  image: ResolvedImage,
): Promise<MountRecord[]> {
  if (volumes.every(({ type }) => type === 'bind')) return [...volumes];
  const { VolumeStore } = await import('./volume-store.js');
  const store = new VolumeStore(context.root);
  const base = context.state.prepareBase();
  const made = await Promise.allSettled(
    volumes.map(async (volume): Promise<MountRecord> => {
      if (volume.type === 'bind') return volume;
      const { name, mountpoint, anonymous } = store.create(volume.name || undefined);
      const { layersDir, lower } = image;
      try {
        await store.fill(name, { layersDir, lower, base, path: volume.target });
      } catch (error) {
        if (anonymous) await store.remove(name);
        throw error;
      }
      return { ...volume, name, source: mountpoint, ...(anonymous ? { anonymous } : {}) };
    }),
  );
  const mounts = made.flatMap((each) => (each.status === 'fulfilled' ? [each.value] : []));
  for (const each of made) {
    if (each.status === 'fulfilled') continue;
    await store.removeAnonymous(mounts);
    throw each.reason;
  }
  return mounts;
}

/** The mounts of other containers, but where something else was asked for. Errors: ERR_VOLUME; ERR_CONTAINER_NOT_FOUND. */
function volumesFrom(
  root: string,
  { volumesFrom: texts = [] }: RunOptions,
  own: readonly VolumeOptions[],
): VolumeOptions[] {
  const found = new Map<string, VolumeOptions>();
  for (const text of texts) {
    const [, reference = '', mode] = /^(.*?)(?::([^:]*))?$/s.exec(text) ?? [];
    if (mode !== undefined && mode !== 'ro' && mode !== 'rw') {
      const message = `volumes from ${JSON.stringify(text)}: invalid mode: ${mode}; there are ro and rw`;
      throw new ClearVMError('ERR_VOLUME', message, { field: 'volumesFrom' });
    }
    for (const { type, name, source, target, readOnly } of findContainer(root, reference).mounts) {
      found.set(target, {
        ...{ type, source: name ?? source, target },
        readOnly: readOnly || mode === 'ro',
      });
    }
  }
  const taken = new Set(own.map(({ target }) => target));
  return [...found.values()].filter(({ target }) => !taken.has(target));
}

/** Removes the volumes that a container had for itself. Its record must be gone. Errors: ERR_STATE. */
export async function removeAnonymousVolumes(
  root: string,
  { mounts }: Pick<ContainerRecord, 'mounts'>,
): Promise<void> {
  if (!mounts.some(({ anonymous }) => anonymous)) return;
  const { VolumeStore } = await import('./volume-store.js');
  await new VolumeStore(root).removeAnonymous(mounts);
}

/** The START frame's payload. Errors: ERR_OCI_SPEC, ERR_SPEC_TOO_LARGE. */
export function encodePlan({ config, spec, record }: Omit<Plan, 'image'>): Buffer {
  const shares = new Map<string, BindShare>();
  record.mounts.forEach(({ target, file }, index) =>
    shares.set(target, { tag: `vol${index}`, file }),
  );
  return encodeSpec(spec, { shares, files: config.files, stdin: record.openStdin });
}

/** Of the template from which such a VM is forked. */
export function shapeOf(config: VmConfig): TemplateShape {
  return { cpus: config.cpus, memory: config.memory, exports: 1 + config.shares.length };
}

/** The image, pulled before if that is asked for, or if it is missing. */
async function resolveImage(
  { images }: EngineContext,
  name: string,
  { pull = 'missing', reportPull, signal }: RunOptions,
): Promise<ResolvedImage> {
  let missing = false;
  if (pull !== 'always') {
    try {
      return await images.resolve(name);
    } catch (error) {
      missing = error instanceof ImageError && error.code === 'ERR_IMAGE_NOT_FOUND';
      // A text that can only be an id is in no registry.
      if (!missing || pull === 'never' || !isReference(name)) throw error;
    }
  }
  const report = await reportPull?.(name, missing);
  const { onProgress, onPulled, stop } = report ?? {};
  try {
    const options = {
      ...(onProgress ? { onProgress } : {}),
      ...(signal ? { signal: toAbortSignal(signal) } : {}),
    };
    const pulled = await images.pull(name, options);
    onPulled?.(pulled);
    return await images.resolve(pulled.reference);
  } finally {
    stop?.();
  }
}

function toAbortSignal(source: AbortSource): AbortSignal {
  if (source instanceof AbortSignal) return source;
  const aborter = new AbortController();
  const abort = (): void => aborter.abort(source.reason);
  source.addEventListener('abort', abort, { once: true });
  if (source.aborted) abort();
  return aborter.signal;
}
