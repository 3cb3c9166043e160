// A runner of CI jobs: the steps of a job run one after the other in a VM of their own, on a copy of the sources, and the
// first that fails ends the job.
//
//   node docs/examples/ci-runner.mjs JOB.json [SOURCES]
//
//   {"image": "busybox", "env": {"CI": "true"}, "steps": [{"name": "build", "run": "make"}]}
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { Engine } from 'clearvm';

/** Returns the exit code of the last step that ran. `log` gets lines. */
export async function runJob(engine, job, sources, log) {
  const container = await engine.run(job.image, {
    cmd: ['sleep', 'infinity'],
    memory: job.memory ?? '1g',
    cpus: job.cpus ?? 1,
    env: job.env ?? {},
    volumes: [`${path.resolve(sources)}:/sources:ro`],
    tmpfs: ['/work'],
    stdout: 'ignore',
    stderr: 'ignore',
  });
  const steps = [{ name: 'sources', run: 'cp -a /sources/. /work' }, ...job.steps];
  try {
    for (const { name, run } of steps) {
      const started = performance.now();
      const step = await container.exec(['sh', '-ec', run], { workdir: '/work' });
      // A step can be over before its last lines have been read.
      const logged = [step.stdout, step.stderr].map(async (input) => {
        for await (const line of createInterface({ input })) log(`${name}: ${line}`);
      });
      const [{ exitCode }] = await Promise.all([step.wait(), ...logged]);
      const seconds = ((performance.now() - started) / 1000).toFixed(1);
      log(`${exitCode === 0 ? '✓' : '✗'} ${name} (${seconds} s)`);
      if (exitCode !== 0) return exitCode;
    }
    return 0;
  } finally {
    await container.stop();
  }
}

if (process.argv[1] === import.meta.filename) {
  const [jobFile, sources = '.'] = process.argv.slice(2);
  if (jobFile === undefined) {
    console.error('usage: node ci-runner.mjs JOB.json [SOURCES]');
    process.exit(2);
  }
  const job = JSON.parse(readFileSync(jobFile, 'utf8'));
  process.exitCode = await runJob(new Engine(), job, sources, console.log);
}
