// A registry in this process that misbehaves as a test wants it to; the real one is in test/conformance.
import fs from 'node:fs';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import path from 'node:path';

import { onTestFinished } from 'vitest';

import { blobFile, sha256 } from '../fixtures.js';

export interface Content {
  type: string;
  bytes: Buffer;
}

/** Handles a request in place of the registry; false: let the registry do it. */
type Hook = (request: http.IncomingMessage, response: http.ServerResponse, seen: number) => boolean;

export class FakeRegistry {
  readonly #server: http.Server;
  readonly content = new Map<string, Content>();
  /** "GET /v2/..." of every request, with its Range or Authorization where it had one. */
  readonly requests: { line: string; headers: http.IncomingHttpHeaders }[] = [];
  hook: Hook = () => false;

  private constructor() {
    this.#server = http.createServer((request, response) => {
      const line = `${request.method} ${request.url}`;
      const seen = this.requests.filter((each) => each.line === line).length;
      this.requests.push({ line, headers: request.headers });
      if (this.hook(request, response, seen)) return;
      this.serve(request, response);
    });
  }

  static async start(): Promise<FakeRegistry> {
    const registry = new FakeRegistry();
    await new Promise<void>((resolve) => registry.#server.listen(0, '127.0.0.1', resolve));
    onTestFinished(() => registry.stop());
    return registry;
  }

  stop(): Promise<void> {
    this.#server.closeAllConnections();
    return new Promise((resolve) => this.#server.close(() => resolve()));
  }

  /** `127.0.0.1:PORT` */
  get host(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Serves the first image of an OCI layout as `name:tag`. Returns the manifest's digest. */
  serveLayout(directory: string, name: string, tag = 'latest'): string {
    for (const hex of fs.readdirSync(path.join(directory, 'blobs/sha256'))) {
      const bytes = fs.readFileSync(blobFile(directory, `sha256:${hex}`));
      this.content.set(`/v2/${name}/blobs/sha256:${hex}`, {
        type: 'application/octet-stream',
        bytes,
      });
    }
    const index = JSON.parse(fs.readFileSync(path.join(directory, 'index.json'), 'utf8')) as {
      manifests: { digest: string; mediaType: string }[];
    };
    const [first] = index.manifests;
    const bytes = fs.readFileSync(blobFile(directory, first?.digest ?? ''));
    return this.serveManifest(name, tag, first?.mediaType ?? '', bytes);
  }

  serveManifest(name: string, tag: string, type: string, content: Buffer | object): string {
    const bytes = Buffer.isBuffer(content) ? content : Buffer.from(JSON.stringify(content));
    for (const each of [tag, sha256(bytes)]) {
      this.content.set(`/v2/${name}/manifests/${each}`, { type, bytes });
    }
    return sha256(bytes);
  }

  /** What a registry that follows the specification answers. */
  serve(request: http.IncomingMessage, response: http.ServerResponse): void {
    const found = this.content.get(request.url ?? '');
    if (!found) {
      response.writeHead(404, { 'content-type': 'application/json' });
      response.end('{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}');
      return;
    }
    const start = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
    const headers = {
      'content-type': found.type,
      'content-length': found.bytes.length - start,
      ...(start > 0
        ? { 'content-range': `bytes ${start}-${found.bytes.length - 1}/${found.bytes.length}` }
        : {}),
    };
    response.writeHead(start > 0 ? 206 : 200, headers);
    response.end(request.method === 'HEAD' ? undefined : found.bytes.subarray(start));
  }

  /** How often something was asked for. */
  count(pattern: RegExp): number {
    return this.requests.filter(({ line }) => pattern.test(line)).length;
  }
}
