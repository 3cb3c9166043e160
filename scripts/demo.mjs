// npm run demo: from a fresh clone to two containers that run as VMs. Sets up, builds, makes a busybox and a Debian
// image, loads them, and runs both: on this machine where it has hardware virtualization, in the lab where not.
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';

import { build } from './build.mjs';
import { busyboxImage, debianImage } from './images.mjs';
import { main, seconds, step, TOP } from './lib/steps.mjs';
import { setUp } from './setup.mjs';

const CLI = path.join(TOP, 'dist', 'cli', 'main.js');
const GUEST_CPUS = 2;
/** What each container shows of itself. */
const SHOW = 'cat /etc/os-release; echo "kernel: $(uname -sr)"; echo "CPUs: $(nproc)"';

/** Runs the CLI here. */
const here = {
  where: 'on this machine, which has hardware virtualization',
  base: undefined,
  run: (args, env) =>
    new Promise((resolve, reject) => {
      const child = spawn(process.execPath, [CLI, ...args], {
        env: { ...process.env, ...env },
        stdio: ['ignore', 'inherit', 'inherit'],
      });
      child.on('error', reject);
      child.on('close', (code) => resolve(code ?? 1));
    }),
  end: () => undefined,
};

/** Starts a lab, and runs the CLI in it. */
async function startLab() {
  const { Lab } = await import('./lab/machine.mjs');
  const lab = await Lab.start({ shares: [TOP] });
  const output = { stdout: process.stdout, stderr: process.stderr };
  return {
    where: 'in the lab, on an emulated AMD-V host: this machine has no hardware virtualization',
    base: '/tmp/clearvm-demo', // the lab's own memory
    run: async (args, env) =>
      (await lab.run([process.execPath, CLI, ...args], { cwd: TOP, env, ...output })).status,
    end: () => lab.close(),
  };
}

function isHealthyHere() {
  const doctor = spawnSync(process.execPath, [CLI, 'doctor', '--json'], { encoding: 'utf8' });
  try {
    return JSON.parse(doctor.stdout).healthy === true;
  } catch {
    throw new Error(`clearvm doctor did not answer: ${doctor.stderr}`);
  }
}

await main(async () => {
  const start = performance.now();
  await setUp();
  await build();
  const images = [];
  for (const [name, make] of [
    ['busybox image', busyboxImage],
    ['Debian image (debootstrap)', debianImage],
  ]) {
    await step(name, async (update) => void images.push(await make(update)));
  }

  let healthy;
  await step('clearvm doctor', () => {
    healthy = isHealthyHere();
    return healthy ? 'containers can run here' : 'containers cannot run here: the lab it is';
  });
  let host = here;
  if (!healthy) await step('lab', async () => void (host = await startLab()));
  console.log(`\nThe containers run ${host.where}.`);

  const base = host.base ?? fs.mkdtempSync(path.join(os.tmpdir(), 'clearvm-demo-'));
  const env = { CLEARVM_ROOT: `${base}/store`, CLEARVM_RUN: `${base}/run` };
  try {
    for (const { archive, name } of images) {
      for (const args of [
        ['load', '-i', archive],
        ['run', '--rm', '--timings', '--cpus', String(GUEST_CPUS), name, 'sh', '-c', SHOW],
      ]) {
        const began = performance.now();
        console.log(
          `\n$ clearvm ${args.map((word) => (/^[\w./:=-]+$/.test(word) ? word : `'${word}'`)).join(' ')}`,
        );
        const status = await host.run(args, env);
        console.log(`[exit status ${status}, ${seconds(performance.now() - began)}]`);
        if (status !== 0)
          throw Object.assign(new Error('The demo has failed.'), { code: 'ERR_DEMO' });
      }
    }
  } finally {
    await host.end();
    if (host === here) fs.rmSync(base, { recursive: true, force: true });
  }
  console.log(`\nThe whole demo took ${seconds(performance.now() - start)}.`);
});
