// The AMD-V lab: QEMU's TCG emulating a machine with SVM and nested paging, and commands running on it.

import { closeSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import { Emulator } from './emulator.mjs';
import { findProgram, LabError } from './cache.mjs';
import { measureTsc, prepareInitramfs, prepareKernel } from './image.mjs';
import { openMemoryImage, planFiles } from './files.mjs';
import { lastLook } from './last-look.mjs';
import * as protocol from './protocol.mjs';

/** Longer than any start that will still succeed, on a machine that is busy with other things. */
const START_LIMIT_MS = 300_000;

/**
 * QEMU 7.2's thread that emulates a CPU takes a virtual interrupt back at each exit of a nested guest without a lock and without an
 * atomic instruction, so an interrupt that another thread announces at that instant is not heard of. It stays pending in
 * the APIC, and the next one brings both; but if it was the timer's, there may be no next one. A frame is an interrupt.
 */
const HEARTBEAT_MS = 250;

/** What a command inside finds in its environment by default: what makes it find its programs and files. */
const KEPT_ENVIRONMENT = ['PATH', 'HOME', 'LANG', 'TERM', 'XDG_CACHE_HOME'];

/**
 * @typedef {object} LabOptions
 * @property {number} [memory] MiB, default 4096
 * @property {number} [cpus] default 1; with more, QEMU 7.2 may hang (docs/lab.md)
 * @property {boolean} [icount] the clock counts instructions: one CPU, no ERMS, everything in the lab's memory
 * @property {string[]} [shares] directories that are writable inside, at their own paths (not with icount)
 * @property {string[]} [files] with icount: HOSTPATH or HOSTPATH:LABPATH
 * @property {string[]} [trees] with icount: directories, the same way
 * @property {(text: string) => void} [onConsole] is given the lab's kernel log
 * @property {number} [commandLimitMs] a command that has not ended by then is the end of the lab, and of all others in it:
 *   whoever has many of them to wait for need not wait for each. Default: none
 *
 * @typedef {object} CommandOptions
 * @property {string} [cwd] default the caller's
 * @property {Record<string, string>} [env] in addition to PATH, HOME, LANG, TERM, XDG_CACHE_HOME of the caller
 * @property {import('node:stream').Readable | string | Buffer} [stdin] default: at end-of-file
 * @property {import('node:stream').Writable} [stdout] default: collected in the result
 * @property {import('node:stream').Writable} [stderr]
 *
 * @typedef {{status: number, stdout: Buffer, stderr: Buffer}} CommandResult
 */

/** A running lab. Any number of commands can run in it, one after another or up to 64 at once. */
export class Lab {
  #emulator;
  #commands = new Map();
  #nextId = 1;
  #ready = withResolvers();
  #failure;
  #paused = 0;
  #commandLimitMs;
  #heartbeat;

  /**
   * Starts a lab and waits until commands can run in it.
   *
   * @param {LabOptions} [options]
   * @returns {Promise<Lab>}
   * @throws {LabError} ERR_LAB_PROGRAM, ERR_LAB_BUILD, ERR_LAB_FILE, ERR_LAB_DIED, ERR_LAB_START
   */
  static async start(options = {}) {
    const qemu = findProgram('qemu-system-x86_64');
    const kernel = await prepareKernel();
    const base = await prepareInitramfs(kernel);
    const setup = [];
    let initramfs = base;
    let memoryImage;
    if (options.icount) {
      const plan = await planFiles(options.files ?? [], options.trees ?? []);
      memoryImage = await openMemoryImage(base, plan);
      initramfs = '/proc/self/fd/4';
      setup.push('root', 'memory', ...plan.links.flatMap(([from, to]) => ['link', from, to]));
    } else {
      const shares = (options.shares ?? []).map(shareRecords);
      setup.push('root', 'machine', 'bind', kernel.modules, `/lib/modules/${kernel.release}`);
      setup.push(...shares.flatMap(({ before }) => before), 'temporary');
      setup.push(...shares.flatMap(({ records }) => records));
    }
    const tsc = options.icount ? undefined : await measureTsc();
    const args = [
      ...machineArguments(options, tsc),
      ...['-kernel', kernel.vmlinux, '-initrd', initramfs],
    ];
    // 3 is the channel, 4 the image, or the monitor of a lab that has none.
    const stdio = ['ignore', 'pipe', 'pipe', 'pipe', memoryImage ?? 'pipe'];
    const lab = new Lab(new Emulator(qemu, args, stdio), options);
    if (memoryImage !== undefined) closeSync(memoryImage);
    await lab.#setUp(setup);
    if (!options.icount) {
      const beat = protocol.encodeFrame(0, protocol.HEARTBEAT);
      lab.#heartbeat = setInterval(() => lab.#send(beat), HEARTBEAT_MS).unref();
    }
    return lab;
  }

  /** @private use Lab.start */
  constructor(emulator, { onConsole, commandLimitMs }) {
    this.#emulator = emulator;
    this.#commandLimitMs = commandLimitMs;
    emulator.onConsole = onConsole;
    const reader = new protocol.FrameReader();
    const channel = emulator.child.stdio[3];
    channel.on('data', (bytes) => {
      for (const frame of reader.read(bytes)) this.#onFrame(frame);
    });
    // The emulator's end is told by `ended`; a broken pipe here is only its echo.
    channel.on('error', () => {});
    emulator.ended.then((how) => {
      clearInterval(this.#heartbeat);
      const log = emulator.consoleTail();
      this.#fail(
        new LabError(
          'ERR_LAB_DIED',
          `the lab's machine ended before its work was done (${how})${log && `; its last words:\n${log}`}`,
        ),
      );
    });
  }

  /** The emulator's process id. */
  get pid() {
    return this.#emulator.child.pid;
  }

  async #setUp(records) {
    this.#send(protocol.encodeFrame(0, protocol.SETUP, protocol.encodeStrings(records)));
    const timer = setTimeout(() => {
      const log = this.#emulator.consoleTail();
      this.#fail(
        new LabError(
          'ERR_LAB_START',
          `the lab did not start in ${START_LIMIT_MS / 1000} s\n${log}`,
        ),
      );
    }, START_LIMIT_MS);
    try {
      await this.#ready.promise;
    } catch (error) {
      await this.close();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Starts a command.
   *
   * @param {string[]} argv program (looked up in PATH inside) and arguments
   * @param {CommandOptions} [options]
   * @returns {{result: Promise<CommandResult>, kill: (signal: number) => void}} `kill` signals the command and what
   *   it started; the status of a command that a signal ended is 128 + its number
   */
  spawn(argv, options = {}) {
    const id = this.#nextId++;
    const command = {
      collected: { stdout: [], stderr: [] },
      sinks: { stdout: options.stdout, stderr: options.stderr },
      underWay: 0,
      wake: undefined,
      settled: withResolvers(),
    };
    // Who does not wait for a command need not hear that its lab has ended.
    command.settled.promise.catch(() => {});
    const kept = KEPT_ENVIRONMENT.flatMap((name) =>
      process.env[name] ? [[name, process.env[name]]] : [],
    );
    const frame = protocol.encodeExec(id, argv, {
      cwd: options.cwd ?? process.cwd(),
      env: { ...Object.fromEntries(kept), ...options.env },
      stdin: options.stdin !== undefined,
    });
    if (this.#failure) {
      command.settled.reject(this.#failure);
    } else if (frame.length > protocol.MAX_FRAME) {
      command.settled.reject(
        new LabError(
          'ERR_LAB_ARGUMENT',
          `the command line and environment exceed ${protocol.MAX_FRAME} bytes`,
        ),
      );
    } else {
      this.#commands.set(id, command);
      if (this.#commandLimitMs !== undefined) {
        command.limit = setTimeout(() => this.#giveUp(argv), this.#commandLimitMs);
      }
      this.#send(frame);
      if (options.stdin !== undefined) this.#pumpStdin(id, command, options.stdin);
    }
    const kill = (signal) => {
      if (this.#commands.has(id)) {
        this.#send(protocol.encodeFrame(id, protocol.SIGNAL, Buffer.from([signal])));
      }
    };
    return { result: command.settled.promise, kill };
  }

  /**
   * Runs a command to its end.
   *
   * @param {string[]} argv
   * @param {CommandOptions} [options]
   * @returns {Promise<CommandResult>}
   * @throws {LabError} ERR_LAB_DIED if the lab ends first, ERR_LAB_HUNG after commandLimitMs
   */
  run(argv, options) {
    return this.spawn(argv, options).result;
  }

  async #giveUp(argv) {
    const what = argv.join(' ').slice(0, 200);
    const seen = await lastLook(this, this.#emulator.child.stdio[4]);
    const log = this.#emulator.consoleTail();
    this.#fail(
      new LabError(
        'ERR_LAB_HUNG',
        `a command has not ended in ${this.#commandLimitMs / 1000} s, and the lab was ended: ${what}\n${seen}${log && `\nIts last words:\n${log}`}`,
      ),
    );
    void this.#emulator.kill();
  }

  /** Ends the lab at once. What commands that have ended wrote to the shares is on the host. */
  async close() {
    this.#failure ??= new LabError('ERR_LAB_CLOSED', 'the lab has been closed');
    for (const { limit } of this.#commands.values()) clearTimeout(limit);
    await this.#emulator.kill();
  }

  async [Symbol.asyncDispose]() {
    await this.close();
  }

  #send(frame) {
    this.#emulator.child.stdio[3].write(frame);
  }

  #fail(error) {
    this.#failure ??= error;
    this.#ready.reject(this.#failure);
    // A lab whose start fails has nobody who waits for both.
    this.#ready.promise.catch(() => {});
    for (const command of this.#commands.values()) {
      clearTimeout(command.limit);
      command.settled.reject(this.#failure);
    }
    this.#commands.clear();
  }

  #onFrame({ id, type, payload }) {
    const command = this.#commands.get(id);
    if (type === protocol.READY) this.#ready.resolve();
    else if (type === protocol.FAILED) {
      this.#fail(new LabError('ERR_LAB_DIED', `the lab's init gave up: ${payload}`));
    } else if (!command) return;
    else if (type === protocol.STDOUT) this.#deliver(command, 'stdout', payload);
    else if (type === protocol.STDERR) this.#deliver(command, 'stderr', payload);
    else if (type === protocol.STDIN_ACK) {
      command.underWay -= payload.readUInt32LE(0);
      command.wake?.();
    } else if (type === protocol.EXIT) {
      this.#commands.delete(id);
      clearTimeout(command.limit);
      command.wake?.();
      command.settled.resolve({
        status: payload.readUInt32LE(0),
        stdout: Buffer.concat(command.collected.stdout),
        stderr: Buffer.concat(command.collected.stderr),
      });
    }
  }

  #deliver(command, stream, bytes) {
    const sink = command.sinks[stream];
    if (!sink) {
      command.collected[stream].push(bytes);
    } else if (!sink.write(bytes)) {
      // There is one channel: a reader that is slow holds up all of the lab, and loses nothing.
      const channel = this.#emulator.child.stdio[3];
      this.#paused++;
      channel.pause();
      const resume = () => {
        sink.off('drain', resume).off('close', resume);
        if (--this.#paused === 0) channel.resume();
      };
      sink.on('drain', resume).on('close', resume);
    }
  }

  async #pumpStdin(id, command, source) {
    const pieces =
      typeof source === 'string' || Buffer.isBuffer(source) ? [Buffer.from(source)] : source;
    try {
      for await (const chunk of pieces) {
        const bytes = Buffer.from(chunk);
        for (let at = 0; at < bytes.length; at += 65536) {
          const piece = bytes.subarray(at, at + 65536);
          while (
            command.underWay + piece.length > protocol.STDIN_WINDOW &&
            this.#commands.has(id)
          ) {
            await new Promise((resolve) => (command.wake = resolve));
          }
          if (!this.#commands.has(id)) return;
          command.underWay += piece.length;
          this.#send(protocol.encodeFrame(id, protocol.STDIN, piece));
        }
      }
    } catch {
      // A source that breaks is a source that has ended.
    }
    if (this.#commands.has(id)) this.#send(protocol.encodeFrame(id, protocol.STDIN));
  }
}

// Promise.withResolvers is younger than the oldest Node that we run on.
function withResolvers() {
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  return parts;
}

/**
 * Nothing of a share is cached, and Node looks for its modules in thousands of steps: they are taken from the
 * read-only view of the machine, which is cached, and whose changes are lost.
 */
function shareRecords(path, index) {
  const share = ['share', `share${index}`, path];
  const modules = join(path, 'node_modules');
  if (!existsSync(modules)) return { before: [], records: share };
  const aside = `/lab/modules-${index}`;
  return { before: ['bind', modules, aside], records: [...share, 'bind', aside, modules] };
}

function machineArguments({ memory = 4096, cpus = 1, icount = false, shares = [] }, tsc) {
  const append = [
    'console=ttyS0',
    'loglevel=4', // each byte of log is a trip through the emulator
    'panic=-1', // with -no-reboot: the emulator ends
    'nokaslr', // runs are to repeat
    'tsc=reliable', // the emulator's is; a busy host must not make the kernel doubt it
    ...(tsc === undefined ? [] : [`tsc_early_khz=${tsc}`]),
    'no_timer_check',
    'nowatchdog',
  ];
  return [
    '-nodefaults',
    '-no-user-config',
    '-no-reboot',
    ...['-display', 'none'],
    ...['-machine', 'pc'],
    ...['-m', String(memory)],
    // rep stos counts once per iteration on the instruction clock: with ERMS each cleared page would cost 4,096.
    ...(icount
      ? ['-accel', 'tcg', '-icount', 'shift=0,sleep=off', '-cpu', 'max,-erms', '-smp', '1']
      : ['-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', String(cpus)]),
    ...['-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console'],
    ...['-chardev', 'socket,id=lab,fd=3', '-device', 'virtio-serial-pci'],
    ...(icount
      ? []
      : ['-chardev', 'socket,id=monitor,fd=4', '-mon', 'chardev=monitor,mode=control']),
    ...['-device', 'virtserialport,chardev=lab,name=lab'],
    ...(icount ? [] : fileSystem('root', '/', true)),
    ...shares.flatMap((path, index) => (icount ? [] : fileSystem(`share${index}`, path, false))),
    ...['-append', append.join(' ')],
  ];
}

function fileSystem(tag, path, readonly) {
  // QEMU reads a comma that is doubled as a comma.
  const local = `local,id=${tag},path=${path.replaceAll(',', ',,')},security_model=none,multidevs=remap`;
  return [
    ...['-fsdev', `${local}${readonly ? ',readonly=on' : ''}`],
    ...['-device', `virtio-9p-pci,fsdev=${tag},mount_tag=${tag}`],
  ];
}
