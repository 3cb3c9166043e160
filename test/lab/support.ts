// What the suites that run containers in the lab share: one lab for a file, an image in its store, and a look at what is
// left behind.
import { once } from 'node:events';
import { Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';

import { busyboxImage } from '../../scripts/images.mjs';
import { Lab } from '../../scripts/lab/machine.mjs';

export const PROJECT = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');
export const CLI = `${PROJECT}/dist/cli/main.js`;
/** Where engines keep things by default, which in the lab is memory. */
export const ROOT = '/var/lib/clearvm';
export const RUNTIME = '/run/clearvm';
/** The image that `startHost` loads. */
export const IMAGE = 'busybox';

/** Whether this is the suite "soak": the same tests with the numbers that take hours. */
export const LONG = process.env.CLEARVM_SOAK === 'long';

/** Of one command, on a machine that is busy with other things. */
const COMMAND_LIMIT_MS = (LONG ? 60 : 3) * 60_000;

/** One CPU: QEMU 7.2 may hang with more (docs/lab.md), and two labs with one each make better use of two processors. */
export function startLab(options: { memory?: number; commandLimitMs?: number } = {}): Promise<Lab> {
  return Lab.start({ shares: [PROJECT], commandLimitMs: COMMAND_LIMIT_MS, ...options });
}

export interface Outcome {
  status: number;
  stdout: string;
  stderr: string;
}

export interface CommandOptions {
  env?: Record<string, string>;
  stdin?: string;
  stdout?: Writable;
}

/** A stream's text so far, and a wait for what is to come. */
export class Watched extends Writable {
  text = '';

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.text += chunk.toString();
    this.emit('text');
    done();
  }

  /** Waits for a text to come out; the test's own limit ends the wait. */
  async until(text: string): Promise<void> {
    while (!this.text.includes(text)) await once(this, 'text');
  }
}

/** What `run` returns in `Host.inside`. */
export interface InsideRun {
  from: string;
  exitCode: number;
  stdout: string;
  stderr: string;
}

/** A started command: its output to watch, its end, and its process id in the lab. */
export interface Started {
  output: Watched;
  result: Promise<Outcome>;
  /** A file in the lab that holds its process id. */
  pidFile: string;
  signal: (name: string) => Promise<void>;
}

/** What came of a command line at a terminal. */
export interface Session {
  /** Negative: the signal that ended it. */
  status: number | null;
  /** The step that failed. */
  failure: string | null;
  /** Whether the terminal's settings are as before. */
  restored: boolean;
  output: string;
}

/** A step of test/lab/drivers/terminal.py. */
export type Step = [string, ...(string | number)[]];

/** An emulated host with hardware virtualization, on which clearvm is installed. */
export class Host {
  readonly lab: Lab;
  #started = 0;

  constructor(lab: Lab) {
    this.lab = lab;
  }

  async run(argv: string[], options: CommandOptions = {}): Promise<Outcome> {
    const { status, stdout, stderr } = await this.lab.run(argv, { cwd: PROJECT, ...options });
    return { status, stdout: stdout.toString(), stderr: stderr.toString() };
  }

  /** Runs a script, in which `clearvm` is the command line. */
  shell(script: string, options?: CommandOptions): Promise<Outcome> {
    const clearvm = `clearvm() { ${process.execPath} -- ${CLI} "$@"; }`;
    return this.run(['bash', '-c', `${clearvm}\n${script}`], options);
  }

  clearvm(args: string[], options?: CommandOptions): Promise<Outcome> {
    return this.run([process.execPath, '--', CLI, ...args], options);
  }

  /** Runs a program in Node that prints a line now and then and JSON as its last one. Fails with what it has printed. */
  async drive<T>(script: string, args: string[], flags: string[] = []): Promise<T> {
    const output = new Watched();
    const program = [process.execPath, ...flags, `${PROJECT}/test/lab/drivers/${script}`, ...args];
    try {
      const { status, stderr } = await this.run(program, { stdout: output });
      if (status !== 0) throw new Error(`${script} exited with ${status}: ${stderr}`);
      return JSON.parse(output.text.trimEnd().split('\n').at(-1) ?? '') as T;
    } catch (error) {
      console.log(output.text);
      throw error;
    }
  }

  /**
   * Runs a module in the lab, and returns what it has printed as JSON. It has `engine`, `run` (a container, to its end), `templates` (their
   * names), and some of Node's modules.
   */
  async inside<T>(script: string): Promise<T> {
    const { status, stdout, stderr } = await this.run([
      ...[process.execPath, '--input-type=module', '-e'],
      `import { Engine } from '${PROJECT}/dist/index.js';
       import * as fs from 'node:fs';
       import { execFileSync, spawn } from 'node:child_process';
       import { text } from 'node:stream/consumers';
       const engine = new Engine();
       const templates = () => fs.readdirSync('${ROOT}/templates').sort();
       async function run(cmd, options = {}) {
         const container = await engine.run('${IMAGE}', { cmd, ...options });
         const ends = [text(container.stdout), text(container.stderr), container.wait()];
         const [stdout, stderr, { exitCode }] = await Promise.all(ends);
         return { from: container.startedFrom, exitCode, stdout, stderr };
       }
       ${script}`,
    ]);
    if (status !== 0 || stderr !== '')
      throw new Error(`the script ended with ${status}: ${stderr}`);
    return JSON.parse(stdout) as T;
  }

  /** Starts clearvm, and goes on. Signals reach its process alone, not what it has started. */
  start(args: string[]): Started {
    const pidFile = `/tmp/started-${this.#started++}`;
    const output = new Watched();
    const script = `echo $$ > ${pidFile}; exec "$@"`;
    const result = this.run(['sh', '-c', script, 'sh', process.execPath, '--', CLI, ...args], {
      stdout: output,
    });
    // Whoever fails before waiting for it need not hear of its end as well.
    result.catch(() => {});
    return {
      output,
      result,
      pidFile,
      signal: async (name) => {
        const { status, stderr } = await this.shell(`kill -${name} $(cat ${pidFile})`);
        if (status !== 0) throw new Error(stderr);
      },
    };
  }

  /** Runs clearvm at a terminal of its own, of 24 by 80 at first. */
  async atTerminal(args: string[], steps: Step[]): Promise<Session> {
    const { stdout, stderr } = await this.run([
      ...['python3', `${PROJECT}/test/lab/drivers/terminal.py`, JSON.stringify(steps)],
      ...[process.execPath, '--', CLI, ...args],
    ]);
    if (stderr !== '') throw new Error(stderr);
    return JSON.parse(stdout) as Session;
  }

  /** Everything that a container might leave: VMMs, mounts, sockets with names, files. Two that are equal say: nothing. */
  async traces(): Promise<string> {
    const { stdout } = await this.shell(`
      # But those that make templates, and those that are gone but for their last milliseconds.
      echo "VMMs:"; for comm in $(grep -lsx -e clearvm-vmm -e clearvm-spare /proc/[0-9]*/comm); do
        tr '\\0' ' ' 2> /dev/null < \${comm%comm}cmdline | grep -qve --template-save && echo $comm; done
      echo "mounts:"; cat /proc/mounts
      echo "sockets:"; awk 'NR > 1 && $8 != "" { print $8 }' /proc/net/unix | sort
      echo "files:"; find ${ROOT} ${RUNTIME} -not -name kvm-verdict.json -not -path "*/templates*" | sort`);
    return stdout;
  }

  async vmms(): Promise<number[]> {
    const { stdout } = await this.shell('grep -lsx clearvm-vmm /proc/[0-9]*/comm');
    return [...stdout.matchAll(/^\/proc\/(\d+)\//gm)].map((match) => Number(match[1]));
  }

  close(): Promise<void> {
    return this.lab.close();
  }
}

/** Starts a lab, of `memory` MiB, and loads IMAGE into its store. */
export async function startHost(
  options: { memory?: number; commandLimitMs?: number } = {},
): Promise<Host> {
  const { archive } = await busyboxImage();
  const host = new Host(await startLab(options));
  const { status, stderr } = await host.clearvm(['load', '-q', '-i', archive, '--name', IMAGE]);
  if (status !== 0) {
    await host.close();
    throw new Error(`the image cannot be loaded: ${stderr}`);
  }
  // The template of containers without options, so that none is made while a test looks at the processes.
  const prepared = await host.run([
    ...[process.execPath, '--input-type=module', '-e'],
    `import { Engine } from '${PROJECT}/dist/index.js'; const engine = new Engine(); await engine.prepare();
     const container = await engine.run('${IMAGE}', { cmd: ['true'] }); await container.wait();`,
  ]);
  if (prepared.status !== 0) throw new Error(`no template can be made: ${prepared.stderr}`);
  // The directories that the first run makes are to be there before anything is compared.
  await host.shell(`mkdir -p -m 711 ${ROOT}/containers ${ROOT}/names`);
  return host;
}
