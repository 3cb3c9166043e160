/** What is asked of a running VM as a whole, and what init tells about what runs in it. */
import { closeSync, openSync, readFileSync } from 'node:fs';
import type { Readable } from 'node:stream';

import { ClearVMError } from '../errors.js';
import { loadAddon } from '../vm/native.js';
import { ControlFrame } from '../vm/protocol.js';
import { encodeBuiltin } from '../vm/spec.js';
import { StdioFds } from '../vm/stdio.js';
import { notePaused } from './record.js';
import { aboutContainer, connectRunning, type Running } from './running.js';

/** Stops the VM's processors, or lets them go on. Errors: ERR_CONTAINER_NOT_RUNNING, ERR_ALREADY (it is so). */
export async function setPaused(container: Running, paused: boolean): Promise<void> {
  const client = connectRunning(container);
  try {
    await client.request(paused ? ControlFrame.PAUSE : ControlFrame.RESUME);
    notePaused(container.dataDirectory, paused);
  } catch (error) {
    if (!(error instanceof ClearVMError) || error.code !== 'ERR_ALREADY') throw error;
    const text = `Container ${container.id} is ${paused ? 'already' : 'not'} paused`;
    throw new ClearVMError('ERR_ALREADY', text, { cause: error, exitCode: 1 });
  } finally {
    client.close();
  }
}

/** The output of a program of init's. Errors: ERR_CONTAINER_NOT_RUNNING, ERR_CONTAINER_PAUSED, ERR_BUILTIN. */
export async function readBuiltin(container: Running, name: string): Promise<string> {
  const client = connectRunning(container);
  const stdio = new StdioFds(loadAddon(), { stdin: 'ignore', stdout: 'pipe', stderr: 'ignore' });
  const none = openSync('/dev/null', 'r+');
  let output: Readable | null = null;
  try {
    const [, stdout = none] = stdio.vmm;
    const process = client.exec(encodeBuiltin(name), false, [none, stdout, none]);
    stdio.closeVmmEnds();
    output = stdio.streams().stdout;
    await process.started;
    const chunks: Buffer[] = [];
    for await (const chunk of output ?? []) chunks.push(chunk as Buffer);
    const { exitCode } = await process.exited;
    if (exitCode === 0) return Buffer.concat(chunks).toString('utf8');
    throw new ClearVMError('ERR_BUILTIN', `the guest's init cannot tell: ${name} failed`);
  } catch (error) {
    throw aboutContainer(error, container);
  } finally {
    output?.destroy();
    closeSync(none);
    client.close();
  }
}

/** A process in a container. */
export interface ContainerProcessInfo {
  uid: number;
  pid: number;
  ppid: number;
  /** The controlling terminal, as `pts/0`; "" where there is none. */
  tty: string;
  /** Processor time so far, seconds. */
  cpuSeconds: number;
  /** For how long it has been there, seconds. */
  ageSeconds: number;
  /** The command line; the program's name in brackets where it has none. */
  command: string;
}

/** The unit of times in /proc, on every Linux of today. */
const TICKS = 100;
/** Of pseudo-terminals. */
const PTS_MAJOR = 136;

/** The processes in a container, by pid. Errors: as of readBuiltin. */
export async function listProcesses(container: Running): Promise<ContainerProcessInfo[]> {
  const text = await readBuiltin(container, 'top');
  return parseProcesses(text).sort((a, b) => a.pid - b.pid);
}

/** Lines of rootfs/builtin.h's `top`. What is not one is left out: it is the guest that says it. */
export function parseProcesses(text: string): ContainerProcessInfo[] {
  const uptime = Number.parseFloat(text);
  return text.split('\n').flatMap((line) => {
    const [uid = '', stat = '', command = ''] = line.split('\t');
    // The name, in parentheses, may hold blanks and parentheses.
    const name = stat.slice(stat.indexOf('(') + 1, stat.lastIndexOf(')'));
    const fields = stat
      .slice(stat.lastIndexOf(')') + 2)
      .split(' ')
      .map(Number);
    const [, ppid = NaN, , , device = 0] = fields;
    const process = {
      uid: Number(uid),
      pid: Number.parseInt(stat, 10),
      ppid,
      tty: (device >> 8) % 256 === PTS_MAJOR ? `pts/${device & 0xff}` : '',
      cpuSeconds: ((fields[11] ?? NaN) + (fields[12] ?? NaN)) / TICKS,
      ageSeconds: uptime - (fields[19] ?? NaN) / TICKS,
      command: command === '' ? `[${name}]` : command,
    };
    return Object.values(process).some((value) => Number.isNaN(value)) ? [] : [process];
  });
}

/** What a container uses at one time. */
export interface ContainerSample {
  /** Bytes that its processes and kernel have in use, caches of files not counted. */
  memory: number;
  /** Bytes that the VM was given. */
  memoryLimit: number;
  /** Threads. */
  tasks: number;
  /** Time of all processors since the guest's boot, and how much of it they worked: ticks. */
  cpuTicks: number;
  busyTicks: number;
  cpus: number;
}

/** Errors: as of readBuiltin. */
export async function takeSample(container: Running): Promise<ContainerSample> {
  const text = await readBuiltin(container, 'stats');
  const config = JSON.parse(readFileSync(`${container.dataDirectory}/vm.json`, 'utf8')) as {
    cpus: number;
    memory: number;
  };
  return { ...parseSample(text), memoryLimit: config.memory, cpus: config.cpus };
}

/** rootfs/builtin.h's `stats`. What is missing counts as 0. */
export function parseSample(
  text: string,
): Pick<ContainerSample, 'memory' | 'tasks' | 'cpuTicks' | 'busyTicks'> {
  const value = (label: string): number =>
    Number(new RegExp(`^${label}: *(\\d+)`, 'm').exec(text)?.[1] ?? 0);
  const unused = ['MemFree', 'Buffers', 'Cached', 'SReclaimable'].map(value);
  const used = unused.reduce((rest, kilobytes) => rest - kilobytes, value('MemTotal'));
  const ticks = (/^cpu +([\d ]+)/m.exec(text)?.[1] ?? '').trim().split(' ').map(Number);
  // user nice system idle iowait irq softirq steal; guests' time is in user.
  const counted = ticks.slice(0, 8);
  const cpuTicks = counted.reduce((sum, each) => sum + each, 0);
  return {
    memory: Math.max(used, 0) * 1024,
    tasks: value('Tasks'),
    cpuTicks,
    busyTicks: cpuTicks - (counted[3] ?? 0) - (counted[4] ?? 0),
  };
}

/** How busy the processors were between two samples: 100 is one of them, all the time. */
export function cpuPercent(before: ContainerSample, after: ContainerSample): number {
  const ticks = after.cpuTicks - before.cpuTicks;
  return ticks <= 0 ? 0 : ((after.busyTicks - before.busyTicks) / ticks) * after.cpus * 100;
}
