/** A container in the form of docker's API; what has no meaning for a VM is left out. */
import { USER_ANNOTATION } from '../vm/spec.js';
import type { Container } from './managed.js';
import { stopDefaults } from './monitor.js';
import { isActive, type ContainerRecord, type HealthConfig, type MountRecord } from './record.js';

export function describeContainer(container: Container): Record<string, unknown> {
  const { record, state, directory } = container;
  const config = container.vmConfig();
  const { process, hostname, mounts = [], root, annotations = {}, linux } = container.spec();
  const { status } = state;
  const [path = '', ...args] = record.args;
  const { entrypointLength = 0, workdir = '' } = record;
  const shm = mounts.find(({ destination }) => destination === '/dev/shm');
  return {
    Id: record.id,
    Created: record.created,
    Path: path,
    Args: args,
    State: {
      Status: status,
      Running: isActive(status),
      Paused: status === 'paused',
      Restarting: status === 'restarting',
      OOMKilled: state.oomKilled ?? false,
      Dead: false,
      Pid: state.pid,
      ExitCode: state.exitCode,
      Error: state.error,
      StartedAt: state.startedAt,
      FinishedAt: state.finishedAt,
      ...(state.health ? { Health: state.health } : {}),
    },
    Image: record.image.id,
    ResolvConfPath: '',
    HostnamePath: '',
    HostsPath: '',
    LogPath: record.log.driver === 'none' ? '' : `${directory}/${record.id}-json.log`,
    Name: `/${record.name}`,
    RestartCount: state.restarts,
    Driver: 'overlay2',
    Platform: 'linux',
    MountLabel: '',
    ProcessLabel: '',
    AppArmorProfile: '',
    ExecIDs: null,
    HostConfig: {
      Binds: record.mounts
        .filter(({ anonymous }) => !anonymous)
        .map(({ name, source, target, readOnly }) =>
          [name ?? source, target, ...(readOnly ? ['ro'] : [])].join(':'),
        ),
      LogConfig: { Type: record.log.driver, Config: logOptions(record) },
      NetworkMode: 'none',
      PortBindings: {},
      RestartPolicy: {
        Name: record.restart.name,
        MaximumRetryCount: record.restart.maximumRetryCount,
      },
      AutoRemove: record.autoRemove,
      VolumeDriver: '',
      VolumesFrom: null,
      ContainerIDFile: '',
      Privileged: false,
      PublishAllPorts: false,
      ShmSize: shmSize(shm?.options),
      Runtime: 'clearvm',
      ReadonlyRootfs: root.readonly ?? false,
      Memory: config.memory,
      MemoryReservation: config.memoryReservation ?? 0,
      NanoCpus: (config.cpuLimit ?? config.cpus * 1000) * 1e6,
      OomScoreAdj: process.oomScoreAdj ?? 0,
      PidsLimit: linux?.resources?.pids?.limit ?? null,
      CpusetCpus: config.cpusetCpus ?? '',
      Tmpfs: Object.fromEntries(
        mounts
          .filter(({ type, destination }) => type === 'tmpfs' && destination !== '/dev/shm')
          .map(({ destination, options = [] }) => [destination, options.join(',')]),
      ),
    },
    GraphDriver: { Name: 'overlay2', Data: { UpperDir: `${directory}/upper` } },
    Mounts: record.mounts.map(describeMount),
    Config: {
      Hostname: hostname ?? '',
      Domainname: '',
      User: annotations[USER_ANNOTATION] ?? '',
      AttachStdin: record.openStdin && record.stdinOnce,
      AttachStdout: false,
      AttachStderr: false,
      Tty: record.tty,
      OpenStdin: record.openStdin,
      StdinOnce: record.stdinOnce,
      // What it was given; its host name is told above.
      Env: (process.env ?? []).filter((variable) => variable !== `HOSTNAME=${hostname}`),
      Cmd: listOf(record.args.slice(entrypointLength)),
      Entrypoint: listOf(record.args.slice(0, entrypointLength)),
      Image: record.image.reference,
      WorkingDir: workdir,
      Volumes: null,
      OnBuild: null,
      Labels: record.labels,
      ...(record.health ? { Healthcheck: describeHealth(record.health) } : {}),
      StopSignal: record.stopSignal ?? 'SIGTERM',
      StopTimeout: stopDefaults(record).seconds,
    },
    NetworkSettings: { Ports: {}, IPAddress: '', Gateway: '', MacAddress: '', Networks: {} },
  };
}

/** docker writes an empty list as null. */
function listOf(words: string[]): string[] | null {
  return words.length > 0 ? words : null;
}

/** Bytes of /dev/shm, of its mount options; docker's 64 MiB where they say nothing. */
function shmSize(options: readonly string[] = []): number {
  const size = options.find((option) => option.startsWith('size='))?.slice('size='.length) ?? '64m';
  const unit = { k: 1024, m: 1024 ** 2, g: 1024 ** 3 }[size.slice(-1).toLowerCase()] ?? 1;
  return Number.parseInt(size, 10) * unit;
}

/** Times are nanoseconds there. */
function describeHealth(health: HealthConfig): Record<string, unknown> {
  const { test, interval, timeout, startPeriod, startInterval, retries } = health;
  return {
    Test: test,
    Interval: interval * 1e6,
    Timeout: timeout * 1e6,
    StartPeriod: startPeriod * 1e6,
    StartInterval: startInterval * 1e6,
    Retries: retries,
  };
}

function logOptions({ log }: ContainerRecord): Record<string, string> {
  return {
    ...(log.maxSize > 0 ? { 'max-size': String(log.maxSize) } : {}),
    ...(log.maxFile > 1 ? { 'max-file': String(log.maxFile) } : {}),
  };
}

function describeMount(mount: MountRecord): Record<string, unknown> {
  return {
    Type: mount.type,
    ...(mount.name === undefined ? {} : { Name: mount.name }),
    Source: mount.source,
    Destination: mount.target,
    ...(mount.type === 'volume' ? { Driver: 'local' } : {}),
    Mode: mount.readOnly ? 'ro' : '',
    RW: !mount.readOnly,
    Propagation: mount.type === 'bind' ? 'rprivate' : '',
  };
}
