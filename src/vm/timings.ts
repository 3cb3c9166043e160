/** The timeline of a run, from the library call to the end: DESIGN's "life of clearvm run", with times. */
import { Timeline } from './protocol.js';

/** The points in the order in which a run meets them. The VMM stamps those from `vmm.start` to `exited`. */
export const TIMELINE_POINTS = [
  /** Engine.run was called. Every other time counts from here. */
  'request',
  /** The image is resolved to layers and a config. */
  'image.resolved',
  /** Specs and directories are ready, the VMM's files open. */
  'prepared',
  /** The VMM is spawned, and the spec is on its way to it. */
  'spawned',
  'vmm.start',
  'vmm.jailed',
  'kernel.loaded',
  'vm.created',
  /** The template's state is in place; then there is no `kernel.loaded`, `init` and `agent.ready`. */
  'restored',
  'guest.entry',
  'init',
  'agent.ready',
  'root.mounted',
  'exec',
  'started',
  'first.output',
  'exited',
  /** The VMM's process is gone. */
  'vmm.gone',
  /** Nothing of the container is left on the host. */
  'cleaned',
] as const;

/** A point of a start, named as in docs/architecture.md. */
export type TimelinePoint = (typeof TIMELINE_POINTS)[number];

/** What each point means, for people. */
export const TIMELINE_LABELS: Readonly<Record<TimelinePoint, string>> = {
  request: 'library call',
  'image.resolved': 'image resolved',
  prepared: 'spec written, directories made',
  spawned: 'VMM spawned',
  'vmm.start': 'VMM in main()',
  'vmm.jailed': 'jail entered',
  'kernel.loaded': 'memory made, kernel loaded',
  'vm.created': 'VM and vCPUs created',
  restored: 'template in place',
  'guest.entry': 'first guest instruction',
  init: 'init in the guest',
  'agent.ready': 'init asks for the spec',
  'root.mounted': 'root file system mounted',
  exec: 'execve of the command',
  started: 'command runs',
  'first.output': 'first byte of output',
  exited: 'command exited',
  'vmm.gone': 'VMM gone',
  cleaned: 'everything removed',
};

const VMM_POINTS: Readonly<Record<number, TimelinePoint>> = {
  [Timeline.VMM_START]: 'vmm.start',
  [Timeline.VMM_JAILED]: 'vmm.jailed',
  [Timeline.VM_CREATED]: 'vm.created',
  [Timeline.KERNEL_LOADED]: 'kernel.loaded',
  [Timeline.GUEST_ENTRY]: 'guest.entry',
  [Timeline.INIT]: 'init',
  [Timeline.AGENT_READY]: 'agent.ready',
  [Timeline.ROOT_MOUNTED]: 'root.mounted',
  [Timeline.EXEC]: 'exec',
  [Timeline.STARTED]: 'started',
  [Timeline.FIRST_OUTPUT]: 'first.output',
  [Timeline.EXITED]: 'exited',
  [Timeline.RESTORED]: 'restored',
};

/** When a start has reached a point. */
export interface Timing {
  point: TimelinePoint;
  /** Milliseconds since the library call. */
  at: number;
}

/** Collects points from both sides: CLOCK_MONOTONIC is one clock for the engine and the VMM. */
export class TimelineRecorder {
  readonly #times = new Map<TimelinePoint, bigint>();

  /** Marks a point now, the first time only. */
  mark(point: TimelinePoint, at: bigint = process.hrtime.bigint()): void {
    if (!this.#times.has(point)) this.#times.set(point, at);
  }

  /** Takes the payload of a TIMELINE frame; points that this version does not know are passed over. */
  addStamps(payload: Buffer): void {
    for (let at = 0; at + 16 <= payload.length; at += 16) {
      const point = VMM_POINTS[payload.readUInt32LE(at)];
      const time = payload.readBigUInt64LE(at + 8);
      if (point !== undefined && time !== 0n) this.mark(point, time);
    }
  }

  /** CLOCK_MONOTONIC in nanoseconds, or undefined where the run has not come to the point. */
  at(point: TimelinePoint): bigint | undefined {
    return this.#times.get(point);
  }

  /** Every point that was reached, by time: the VMM may be in main() before its spawn returns. */
  list(): Timing[] {
    const origin = this.#times.get('request') ?? 0n;
    const timings: Timing[] = [];
    for (const point of TIMELINE_POINTS) {
      const time = this.#times.get(point);
      if (time !== undefined) timings.push({ point, at: Number(time - origin) / 1e6 });
    }
    return timings.sort((a, b) => a.at - b.at);
  }
}
