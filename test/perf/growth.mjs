// How start-up grows with the VM, and with the number of VMs.

import { emit, IDLE, median, round } from './figures.mjs';

/** One start of a container that ends at once: milliseconds from the call to its first byte. */
async function startOnce(engine, options, origin) {
  const container = await engine.run('bench:latest', {
    cmd: ['/ready'],
    stdout: 'pipe',
    ...options,
  });
  container.stdout.resume();
  container.stderr.resume();
  await container.wait();
  await new Promise((resolve) => setTimeout(resolve, 200));
  if (container.startedFrom !== origin) throw new Error(`started from ${container.startedFrom}`);
  return container.timings.find(({ point }) => point === 'first.output').at;
}

const GROWTH_RUNS = 5;

async function startShape(engine, shape, kind) {
  const options = { ...shape, template: kind !== 'cold' };
  if (kind !== 'cold') await engine.prepare({ ...shape, spares: kind === 'spare' ? 1 : 0 });
  const times = [];
  const origin = { fork: 'template', spare: 'spare', cold: 'kernel' }[kind];
  for (let run = 0; run <= GROWTH_RUNS; run++) {
    const time = await startOnce(engine, options, origin);
    if (run > 0) times.push(time);
  }
  if (kind === 'spare') await engine.prepare({ ...shape, spares: 0 });
  return median(times);
}

const SHAPE_TRIES = 3;

/** The lab loses an interrupt now and then where there are several vCPUs, and the guest with it (docs/lab.md). */
async function startShapeAtLast(engine, shape, kind) {
  for (let tries = 1; ; tries++) {
    try {
      return await startShape(engine, shape, kind);
    } catch (error) {
      console.error(`growth: ${kind}, ${JSON.stringify(shape)}, try ${tries}: ${error.message}`);
      if (tries === SHAPE_TRIES) return Number.NaN;
    }
  }
}

const BASE = { cpus: 1, memory: '128m' };

/** Of three measurements the last: up to the twelfth start V8 compiles what runs often, which makes some of them 1 icount-ms slower. */
async function startBase(engine, kind) {
  for (let pass = 0; pass < 2; pass++) await startShapeAtLast(engine, BASE, kind);
  return startShapeAtLast(engine, BASE, kind);
}

/** How much longer larger VMs take to start than one of 1 vCPU and 128 MiB. */
export async function growth(engine) {
  for (const kind of ['fork', 'spare', 'cold']) {
    const base = await startBase(engine, kind);
    const measure = async (name, shape) => {
      const time = await startShapeAtLast(engine, { ...BASE, ...shape }, kind);
      // What is not a number is null in JSON, and a failure.
      emit(`growth.${kind}.${name}`, round(time / base), 'times', { ms: round(time) });
    };
    for (const memory of ['64m', '512m', '2g', '4g', '16g']) {
      await measure(`memory.${memory}`, { memory });
    }
    for (const cpus of [2, 4, 8, 16, 32]) await measure(`cpus.${cpus}`, { cpus });
  }
}

/**
 * Starts on a host that has others already. Those are stopped: the lab gives a guest an interrupt twice now and then, and one of hundreds would soon
 * spin for ever (docs/lab.md).
 */
export async function crowd(engine) {
  const alone = await startBase(engine, 'fork');
  const others = [];
  for (const count of [100, 500]) {
    while (others.length < count - 1) {
      const container = await engine.run('bench:latest', IDLE);
      process.kill(container.vmmPid, 'SIGSTOP');
      others.push(container);
    }
    const crowded = await startShape(engine, BASE, 'fork');
    emit(`growth.fork.vm.${count}`, round(crowded / alone), 'times', { ms: round(crowded) });
  }
  for (const container of others) await container.stop({ timeout: 0 });
}
