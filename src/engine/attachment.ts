/** A container's standard streams, by way of its monitor. */
import { Readable, Writable } from 'node:stream';

import type { ExitStatus } from '../vm/vmm.js';
import { AttachFlag, MonitorFrame } from './monitor-protocol.js';
import type { MonitorConnection, MonitorEvents } from './monitor.js';

/** What of a running container is connected. */
export interface AttachOptions {
  /** Connect stdin; true unless given. It does nothing for a container whose stdin is not open. */
  stdin?: boolean;
}

/**
 * stdout and stderr share a connection: both are to be read, or destroyed. The container waits for who has started it
 * attached; others who read too slowly are let go of.
 */
export class Attachment implements AsyncDisposable {
  readonly stdin: Writable;
  /** With a terminal: all there is. */
  readonly stdout: Readable;
  readonly stderr: Readable;
  readonly #ended: Promise<ExitStatus | undefined>;
  #connection: MonitorConnection | undefined;

  /** @internal `open` gets what to listen with. */
  constructor(open: (events: MonitorEvents) => MonitorConnection) {
    const readable = (): Readable => new Readable({ read: () => this.#connection?.resume() });
    this.stdout = readable();
    this.stderr = readable();
    this.stdin = new Writable({
      write: (chunk: Buffer, _encoding, done) => {
        if (this.#connection?.sendStdin(chunk) ?? true) done();
        else this.#connection?.onceDrained(() => done());
      },
      final: (done) => {
        this.#connection?.send(MonitorFrame.STDIN_END);
        done();
      },
    });
    this.#ended = new Promise((resolve) => {
      let status: ExitStatus | undefined;
      this.#connection = open({
        onOutput: (stream, bytes) => this[stream].destroyed || this[stream].push(bytes),
        // All of the output came before it. A container that is to be restarted has a monitor that goes on.
        onExited: (exit) => {
          status = exit;
          this.#connection?.close();
        },
        onClose: () => {
          this.#connection = undefined;
          for (const stream of [this.stdout, this.stderr]) stream.push(null);
          resolve(status);
        },
      });
    });
  }

  /** @internal */
  static flags(options: AttachOptions, hold: boolean): number {
    return (
      AttachFlag.STDOUT |
      AttachFlag.STDERR |
      (options.stdin === false ? 0 : AttachFlag.STDIN) |
      (hold ? AttachFlag.HOLD : 0)
    );
  }

  /** The command's end; undefined when the connection ended before it: by `detach`, or because this reader was too slow. */
  wait(): Promise<ExitStatus | undefined> {
    return this.#ended;
  }

  /** Sets the terminal's size. */
  async resize(rows: number, columns: number): Promise<void> {
    const size = Buffer.alloc(4);
    size.writeUInt16LE(rows, 0);
    size.writeUInt16LE(columns, 2);
    await this.#connection?.requestBytes(MonitorFrame.DO_RESIZE, size);
  }

  /** Lets the container go on without this. */
  detach(): void {
    this.#connection?.close();
  }

  /** `await using`: lets go of the container, which runs on. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.detach();
    await this.#ended;
  }
}
