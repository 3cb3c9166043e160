// A host with the image of real services, for the tests that run them.
import fs from 'node:fs';
import path from 'node:path';

import { servicesImage } from '../../scripts/images.mjs';
import { ImageStore } from '../../src/image/index.js';
import { Host, LONG, ROOT, startLab } from './support.js';

/** The image of services in a host's store. */
export const SERVICES = 'services';

/** A host whose store has SERVICES, and the means to run them. */
export class ServiceHost extends Host {
  #scratch = '';

  /** Starts a lab. The image is unpacked out here, once, and the lab's containers read its layers from there. */
  static async start(): Promise<ServiceHost> {
    const { archive } = await servicesImage();
    // What the lab shows of it is cached, and what is changed there is lost: not so in the project's own folders.
    const scratch = fs.mkdtempSync('/var/tmp/clearvm-services-');
    let host: ServiceHost | undefined;
    try {
      const images = path.join(scratch, 'images');
      await new ImageStore({ root: images }).load(archive, { name: SERVICES });
      host = new ServiceHost(await startLab(LONG ? {} : { commandLimitMs: 8 * 60_000 }));
      host.#scratch = scratch;
      await host.ok(`mkdir -p ${ROOT}/images; mount --bind ${images} ${ROOT}/images`);
      return host;
    } catch (error) {
      await host?.lab.close();
      fs.rmSync(scratch, { recursive: true, force: true });
      throw error;
    }
  }

  /** Runs a script that has to succeed. Returns its stdout, without the last line end. */
  async ok(script: string): Promise<string> {
    const { status, stdout, stderr } = await this.shell(`set -e\n${script}`);
    if (status !== 0) throw new Error(`${script}\nexited with ${status}: ${stderr}\n${stdout}`);
    return stdout.trimEnd();
  }

  /** Starts a container that runs a script; returns when it has printed `ready`, or its command says so. */
  async service(name: string, options: string, script: string, ready: string): Promise<void> {
    const { status, stderr } = await this.shell(
      `clearvm run -d --name ${name} ${options} ${SERVICES} sh -c "$SCRIPT" > /dev/null`,
      { env: { SCRIPT: script } },
    );
    if (status !== 0) throw new Error(stderr);
    await this.untilIn(name, ready);
  }

  /** Waits until a command succeeds in a container that runs; asked from inside, where it costs little. Fails with its log when it ends. */
  async untilIn(name: string, command: string): Promise<void> {
    const { status, stdout, stderr } = await this.shell(
      `clearvm exec ${name} sh -c "until $COMMAND; do sleep 0.1; done > /dev/null 2>&1" || { clearvm logs ${name} 2>&1; exit 1; }`,
      { env: { COMMAND: command } },
    );
    if (status !== 0) throw new Error(`${name} has ended: ${stderr}${stdout}`);
  }

  /** The process id of a kept container's VMM. */
  vmmOf(name: string): Promise<string> {
    return this.ok(
      `sed -n 's/.*"vmm":{"pid":\\([0-9]*\\).*/\\1/p' ${ROOT}/containers/$(readlink ${ROOT}/names/${name})/state.json`,
    );
  }

  override async close(): Promise<void> {
    await super.close();
    fs.rmSync(this.#scratch, { recursive: true, force: true });
  }
}
