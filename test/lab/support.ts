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

/** A started command: its output to watch, its end, and its process id in the lab. */
export interface Started {
  output: Watched;
  result: Promise<Outcome>;
  /** A file in the lab that holds its process id. */
  pidFile: string;
  signal: (name: string) => Promise<void>;
}

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

  /** Everything that a container might leave: VMMs, mounts, sockets with names, files. Two that are equal say: nothing. */
  async traces(): Promise<string> {
    const { stdout } = await this.shell(`
      echo "VMMs:"; grep -lsx clearvm-vmm /proc/[0-9]*/comm
      echo "mounts:"; cat /proc/mounts
      echo "sockets:"; awk 'NR > 1 && $8 != "" { print $8 }' /proc/net/unix | sort
      echo "files:"; find ${ROOT} ${RUNTIME} -not -name kvm-verdict.json | sort`);
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

/** Starts a lab and loads IMAGE into its store. */
export async function startHost(): Promise<Host> {
  const { archive } = await busyboxImage();
  const host = new Host(await Lab.start({ shares: [PROJECT], cpus: 2 }));
  const { status, stderr } = await host.clearvm(['load', '-q', '-i', archive, '--name', IMAGE]);
  if (status !== 0) {
    await host.close();
    throw new Error(`the image cannot be loaded: ${stderr}`);
  }
  // The directories that the first run makes are to be there before anything is compared.
  await host.shell(`mkdir -p -m 711 ${ROOT}/containers ${RUNTIME}/names`);
  return host;
}
