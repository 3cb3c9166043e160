// A proxy before a registry that cuts, delays, truncates and corrupts what goes through it.
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { Transform } from 'node:stream';

/** What happens to one request; `at`: after so many bytes of the body. */
export type Fault =
  | { kind: 'cut' | 'truncate' | 'corrupt' | 'stall'; at: number }
  | { kind: 'delay'; at: number; ms: number }
  | { kind: 'refuse'; status: number }
  /** Of the request's body. */
  | { kind: 'cut-upload' | 'corrupt-upload'; at: number };

export type FaultPlan = (request: http.IncomingMessage) => Fault | undefined;

export class FaultyProxy {
  readonly #server: http.Server;
  readonly #upstream: number;
  plan: FaultPlan = () => undefined;
  /** Bytes a second; no limit unless set. */
  rate = Infinity;
  /** `GET /v2/...` of every request. */
  readonly requests: string[] = [];
  /** Bytes of blobs that went down. */
  blobBytes = 0;
  /** Bytes of requests that went up. */
  uploadBytes = 0;

  private constructor(host: string) {
    this.#upstream = Number(host.split(':')[1]);
    this.#server = http.createServer((request, response) => this.#forward(request, response));
  }

  static async start(host: string): Promise<FaultyProxy> {
    const proxy = new FaultyProxy(host);
    await new Promise<void>((resolve) => proxy.#server.listen(0, '127.0.0.1', resolve));
    return proxy;
  }

  get host(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  stop(): void {
    this.#server.closeAllConnections();
    this.#server.close();
  }

  #forward(request: http.IncomingMessage, response: http.ServerResponse): void {
    this.requests.push(`${request.method} ${request.url}`);
    const fault = this.plan(request);
    if (fault?.kind === 'refuse') {
      response.writeHead(fault.status).end();
      request.resume();
      return;
    }
    const { method, url, headers } = request;
    const outgoing = http.request(
      { host: '127.0.0.1', port: this.#upstream, method, path: url, headers, agent: false },
      (incoming) => {
        const length = Number(incoming.headers['content-length'] ?? 0);
        const sent = { ...incoming.headers };
        if (fault?.kind === 'truncate' && length > 0) {
          sent['content-length'] = String(Math.min(fault.at, length));
        }
        response.writeHead(incoming.statusCode ?? 502, sent);
        // Even before a body: what breaks may be the answer to a HEAD.
        response.flushHeaders();
        const down = this.#spoil(fault, () => response.destroy());
        if (url?.includes('/blobs/')) down.on('data', (c: Buffer) => (this.blobBytes += c.length));
        incoming.pipe(down).pipe(response);
        incoming.on('error', () => response.destroy());
      },
    );
    outgoing.on('error', () => response.destroy());
    response.on('close', () => outgoing.destroy());
    const upload =
      fault?.kind === 'cut-upload'
        ? ({ kind: 'cut', at: fault.at } as const)
        : fault?.kind === 'corrupt-upload'
          ? ({ kind: 'corrupt', at: fault.at } as const)
          : undefined;
    request
      .on('data', (chunk: Buffer) => (this.uploadBytes += chunk.length))
      .pipe(
        this.#spoil(upload, () => {
          request.destroy();
          outgoing.destroy();
        }),
      )
      .pipe(outgoing);
  }

  /** Passes bytes on until the fault comes. */
  #spoil(fault: Fault | undefined, cut: () => void): Transform {
    let done = 0;
    const { rate } = this;
    return new Transform({
      transform(chunk: Buffer, _encoding, next) {
        const from = done;
        done += chunk.length;
        const pass = (bytes: Buffer): void => {
          if (rate === Infinity) next(null, bytes);
          else setTimeout(() => next(null, bytes), (1000 * bytes.length) / rate);
        };
        if (!fault || !('at' in fault) || fault.at < from || fault.at >= done) {
          const over = fault?.kind === 'truncate' && from > fault.at;
          pass(over ? Buffer.alloc(0) : chunk);
          return;
        }
        const at = fault.at - from;
        switch (fault.kind) {
          case 'cut':
            this.push(chunk.subarray(0, at));
            setImmediate(cut);
            return;
          case 'truncate':
            pass(chunk.subarray(0, at));
            return;
          case 'corrupt': {
            const wrong = Buffer.from(chunk);
            wrong[at]! ^= 0x55;
            pass(wrong);
            return;
          }
          case 'delay':
            setTimeout(() => next(null, chunk), fault.ms);
            return;
          default: // stall: never goes on
        }
      },
    });
  }
}

/** Numbers that look random and are the same in every run (mulberry32): from 0 to below `limit`. */
export function randomNumbers(seed: number): (limit: number) => number {
  let state = seed;
  return (limit) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % limit;
  };
}
