// Runs in the lab: drives one VM by its control socket, and prints what it saw as JSON.
//
//   node control_inside.mjs LAYERS NAME STATE    the root is the directory NAME in LAYERS, STATE holds `upper` and `work`
import { closeSync, openSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

import {
  DEFAULT_INITRD_PATH,
  DEFAULT_KERNEL_PATH,
  DEFAULT_VMM_PATH,
  loadAddon,
} from '../../dist/vm/native.js';
import { ControlFrame } from '../../dist/vm/protocol.js';
import { encodeSpec } from '../../dist/vm/spec.js';
import { StdioFds } from '../../dist/vm/stdio.js';
import { TimelineRecorder } from '../../dist/vm/timings.js';
import { Vmm, VMM_SOCKET } from '../../dist/vm/vmm.js';

const COUNTER = 'i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done';
/** What is on its way when the vCPUs stop. */
const SETTLE_MS = 1000;
const PAUSE_MS = 2000;
const LIMIT_MS = 60_000;

const [layers, name, state] = process.argv.slice(2);
const addon = loadAddon();
const stdio = new StdioFds(addon, { stdin: 'ignore', stdout: 'pipe', stderr: 'inherit' });
const guest = {
  kernel: openSync(DEFAULT_KERNEL_PATH, 'r'),
  initrd: openSync(DEFAULT_INITRD_PATH, 'r'),
};
const listenFd = addon.listenUnix(`${state}/${VMM_SOCKET}`);
const vmm = new Vmm({
  addon,
  file: DEFAULT_VMM_PATH,
  config: {
    version: 1,
    id: '0'.repeat(64),
    cpus: 2,
    memory: 128 << 20,
    kernel: DEFAULT_KERNEL_PATH,
    initrd: DEFAULT_INITRD_PATH,
    root: { layers, lower: [name], state },
    shares: [],
    files: [],
  },
  guest: { open: () => guest },
  listenFd,
  spec: encodeSpec(
    {
      ociVersion: '1.0.2',
      process: {
        args: ['/bin/sh', '-c', COUNTER],
        env: ['PATH=/bin'],
        cwd: '/',
        user: { uid: 0, gid: 0 },
      },
      root: { path: '/' },
    },
    { shares: new Map(), files: [], stdin: false },
  ),
  stdio: stdio.vmm,
  timeline: new TimelineRecorder(),
});
stdio.closeVmmEnds();
closeSync(guest.kernel);
closeSync(guest.initrd);
closeSync(listenFd);

let output = '';
stdio.streams().stdout.on('data', (bytes) => (output += bytes.toString('latin1')));
const lines = () => output.split('\n').length - 1;

/** Waits until the container has said `more` lines more. Resolves to whether it has. */
async function progress(more) {
  const goal = lines() + more;
  for (const end = Date.now() + LIMIT_MS; lines() < goal && Date.now() < end;) await sleep(20);
  return lines() >= goal;
}

/** How many lines come in a while in which none should. */
async function stillness() {
  await sleep(SETTLE_MS);
  const before = lines();
  await sleep(PAUSE_MS);
  return lines() - before;
}

await vmm.started;
const seen = { beforePause: await progress(5) };
const early = await vmm.metrics();

await vmm.request(ControlFrame.PAUSE);
seen.whilePaused = await stillness();
seen.secondPause = await vmm.request(ControlFrame.PAUSE).catch((error) => error.code);
const paused = await vmm.metrics();
await sleep(SETTLE_MS);
seen.exitsWhilePaused = exits(await vmm.metrics()) - exits(paused);
await vmm.request(ControlFrame.RESUME);
seen.afterResume = await progress(5);
seen.secondResume = await vmm.request(ControlFrame.RESUME).catch((error) => error.code);

// A vCPU that has not woken from one pause when the next comes must not be lost.
for (let i = 0; i < 50; i++) {
  await Promise.all([ControlFrame.PAUSE, ControlFrame.RESUME].map((type) => vmm.request(type)));
}
seen.afterManyPauses = await progress(5);

const late = await vmm.metrics();
seen.guestMemory = late['memory.guest'];
seen.exitsCounted = exits(late) > exits(early);
seen.unknownRequest = await vmm.request(99).catch((error) => error.code);
seen.wrongSignal = await vmm
  .request(ControlFrame.SIGNAL, Buffer.from([1]))
  .catch((error) => error.code);
seen.secondStart = await vmm.request(ControlFrame.START).catch((error) => error.code);

// Also of a VM that is paused.
await vmm.request(ControlFrame.PAUSE);
await vmm.request(ControlFrame.STOP);
seen.exited = await vmm.exited.catch((error) => error.code);
await vmm.gone;
seen.lines = output.trimEnd().split('\n');
seen.ordered = seen.lines.every((line, index) => line === String(index + 1));
seen.lines = seen.lines.length;
seen.requestAfterEnd = await vmm.request(ControlFrame.METRICS).catch((error) => error.code);
console.log(JSON.stringify(seen));

function exits(metrics) {
  return Object.keys(metrics)
    .filter((key) => key.startsWith('exits.'))
    .reduce((sum, key) => sum + metrics[key], 0);
}
