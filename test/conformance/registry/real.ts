// Debian's docker-registry on loopback, as each test wants it: open, with basic authentication, with tokens, with TLS.
import { spawn, type ChildProcess } from 'node:child_process';
import { createPrivateKey, createSign, randomUUID, X509Certificate } from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import net, { type AddressInfo } from 'node:net';
import path from 'node:path';

import { run } from '../../unit/image/fixtures.js';

export const USER = 'me';
export const PASSWORD = 'secret';
/** bcrypt of PASSWORD, as htpasswd writes it; docker-registry takes nothing else. */
const HTPASSWD = `${USER}:$2b$04$nZZpnI/ZoHROXczGRCZvfueCIkWBX31/BuhRWeJvXPr5ie9viM7RC\n`;
const ISSUER = 'clearvm test';
const SERVICE = 'registry';

export interface RegistryKind {
  login: 'none' | 'basic' | 'token';
  tls: boolean;
}

export class RealRegistry {
  readonly #children: ChildProcess[] = [];
  readonly #servers: http.Server[] = [];
  /** `127.0.0.1:PORT` */
  host = '';
  /** A directory with the CA's certificate, as skopeo and podman want it. */
  readonly certificates: string;

  private constructor(
    readonly kind: RegistryKind,
    readonly directory: string,
  ) {
    this.certificates = path.join(directory, 'certificates');
  }

  /** @param directory empty; everything is in there */
  static async start(kind: RegistryKind, directory: string): Promise<RealRegistry> {
    const registry = new RealRegistry(kind, directory);
    await registry.#start();
    return registry;
  }

  get certificate(): string {
    return path.join(this.certificates, 'ca.crt');
  }

  /** What skopeo and podman need to be told: `--src-...`, `--dest-...` or nothing before it. */
  flags(prefix = ''): string[] {
    const { login, tls } = this.kind;
    return [
      ...(tls ? [`--${prefix}cert-dir`, this.certificates] : [`--${prefix}tls-verify=false`]),
      ...(login === 'none' ? [] : [`--${prefix}creds`, `${USER}:${PASSWORD}`]),
    ];
  }

  async stop(): Promise<void> {
    for (const server of this.#servers) {
      server.closeAllConnections();
      server.close();
    }
    for (const child of this.#children) {
      child.kill('SIGKILL');
      if (child.exitCode === null && child.signalCode === null) {
        await new Promise((resolve) => child.once('exit', resolve));
      }
    }
  }

  async #start(): Promise<void> {
    const { login, tls } = this.kind;
    fs.mkdirSync(this.certificates);
    const key = path.join(this.directory, 'key.pem');
    if (tls || login === 'token') {
      run(
        ...(['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt'] as const),
        ...['ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-subj', '/CN=clearvm test'],
        ...['-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', key, '-out', this.certificate],
      );
    }
    const port = await freePort();
    this.host = `127.0.0.1:${port}`;
    const tokenPort = login === 'token' ? await this.#startTokenServer(key) : 0;
    const config = path.join(this.directory, 'config.yml');
    const auth: Record<RegistryKind['login'], () => object> = {
      none: () => ({}),
      basic: () => {
        const file = path.join(this.directory, 'htpasswd');
        fs.writeFileSync(file, HTPASSWD);
        return { auth: { htpasswd: { realm: 'test', path: file } } };
      },
      token: () => ({
        auth: {
          token: {
            realm: `${tls ? 'https' : 'http'}://127.0.0.1:${tokenPort}/token`,
            service: SERVICE,
            issuer: ISSUER,
            rootcertbundle: this.certificate,
          },
        },
      }),
    };
    // JSON is YAML.
    fs.writeFileSync(
      config,
      JSON.stringify({
        version: '0.1',
        log: { level: 'error', accesslog: { disabled: true } },
        storage: { filesystem: { rootdirectory: path.join(this.directory, 'data') } },
        http: {
          addr: this.host,
          ...(tls ? { tls: { certificate: this.certificate, key } } : {}),
        },
        ...auth[login](),
      }),
    );
    const log = fs.openSync(path.join(this.directory, 'log'), 'w');
    this.#children.push(
      spawn('docker-registry', ['serve', config], { stdio: ['ignore', log, log] }),
    );
    fs.closeSync(log);
    await waitForPort(port);
  }

  /** docker's token server, as far as this registry asks for one (distribution, "Token Authentication"). */
  async #startTokenServer(keyFile: string): Promise<number> {
    const key = createPrivateKey(fs.readFileSync(keyFile));
    const der = new X509Certificate(fs.readFileSync(this.certificate)).raw.toString('base64');
    const answer: http.RequestListener = (request, response) => {
      const url = new URL(request.url ?? '', 'http://127.0.0.1');
      const expected = `Basic ${btoa(`${USER}:${PASSWORD}`)}`;
      if (request.headers.authorization !== expected) {
        response.writeHead(401).end();
        return;
      }
      const access = url.searchParams.getAll('scope').map((scope) => {
        const [type, name, actions = ''] = scope.split(':');
        return { type, name, actions: actions.split(',') };
      });
      const now = Math.floor(Date.now() / 1000);
      const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
      const claims = {
        iss: ISSUER,
        sub: USER,
        aud: SERVICE,
        exp: now + 60,
        nbf: now - 5,
        iat: now,
      };
      const text = [
        part({ typ: 'JWT', alg: 'ES256', x5c: [der] }),
        part({ ...claims, jti: randomUUID(), access }),
      ].join('.');
      const signature = createSign('sha256')
        .update(text)
        .sign({ key, dsaEncoding: 'ieee-p1363' })
        .toString('base64url');
      response.end(JSON.stringify({ token: `${text}.${signature}` }));
    };
    const cert = fs.readFileSync(this.certificate);
    const server = this.kind.tls
      ? https.createServer({ cert, key: fs.readFileSync(keyFile) }, answer)
      : http.createServer(answer);
    this.#servers.push(server);
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return (server.address() as AddressInfo).port;
  }
}

async function freePort(): Promise<number> {
  const server = net.createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function waitForPort(port: number): Promise<void> {
  for (let attempt = 0; attempt < 200; attempt++) {
    const open = await new Promise<boolean>((resolve) => {
      const socket = net.connect(port, '127.0.0.1', () => resolve(true));
      socket.on('error', () => resolve(false)).on('connect', () => socket.destroy());
    });
    if (open) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`docker-registry does not listen on port ${port}`);
}
