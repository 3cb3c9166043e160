// Ways to a registry: through proxies, and with certificates where docker keeps them.
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import net, { type AddressInfo } from 'node:net';
import path from 'node:path';

import { beforeEach, expect, onTestFinished, test, vi } from 'vitest';

import { ImageStore } from '../../../../src/image/index.js';
import { failure, layout, run, tar, temporary } from '../fixtures.js';
import { FakeRegistry } from './server.js';

let registry: FakeRegistry;
let store: ImageStore;
beforeEach(async () => {
  registry = await FakeRegistry.start();
  registry.serveLayout(layout(path.join(temporary(), 'layout'), [tar([{ name: 'x' }])]), 'app');
  vi.stubEnv('DOCKER_CONFIG', temporary());
  vi.stubEnv('XDG_CONFIG_HOME', temporary());
  store = new ImageStore({ root: path.join(temporary(), 'store') });
});

async function listen(server: http.Server | https.Server): Promise<string> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

function configure(registries: object): void {
  const file = path.join(process.env['XDG_CONFIG_HOME'] ?? '', 'clearvm/registries.json');
  fs.mkdirSync(path.dirname(file), { recursive: true });
  fs.writeFileSync(file, JSON.stringify({ version: 1, registries }));
}

test('HTTP_PROXY and HTTPS_PROXY are used, but not for this machine or what NO_PROXY names', async () => {
  const asked: string[] = [];
  const [host = '', port = ''] = registry.host.split(':');
  const proxy = http.createServer((request, response) => {
    const url = new URL(request.url ?? '');
    asked.push(url.host);
    request.url = url.pathname + url.search;
    registry.serve(request, response);
  });
  proxy.on('connect', (request: http.IncomingMessage, socket: net.Socket) => {
    asked.push(request.url ?? '');
    const upstream = net.connect(Number(port), host, () => {
      socket.write('HTTP/1.1 200 OK\r\n\r\n');
      upstream.pipe(socket).pipe(upstream);
    });
    for (const each of [socket, upstream]) each.on('error', () => undefined);
  });
  const address = `http://${await listen(proxy)}`;
  for (const name of ['http_proxy', 'https_proxy', 'no_proxy']) vi.stubEnv(name, undefined);
  vi.stubEnv('HTTP_PROXY', address);
  vi.stubEnv('HTTPS_PROXY', address);
  vi.stubEnv('NO_PROXY', 'direct.invalid');
  configure({ 'far.invalid:5000': { insecure: true } });
  await store.pull('far.invalid:5000/app', { pause: 1 });
  expect(asked).not.toEqual([]);
  expect(new Set(asked)).toEqual(new Set(['far.invalid:5000']));
  asked.length = 0;
  await store.pull(`${registry.host}/app`);
  await failure(store.pull('direct.invalid/app', { retries: 0 }), 'ERR_REGISTRY_UNREACHABLE');
  expect(asked).toEqual([]);
});

test('certificates are found where docker keeps them: whom to trust, and who we are', async () => {
  const work = temporary();
  const at = (name: string) => path.join(work, name);
  run(
    ...(['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt'] as const),
    ...['ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-subj', '/CN=clearvm test'],
    ...['-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', at('key'), '-out', at('cert')],
  );
  const [key, cert] = [fs.readFileSync(at('key')), fs.readFileSync(at('cert'))];
  const options = { key, cert, ca: cert, requestCert: true, rejectUnauthorized: true };
  const host = await listen(
    https.createServer(options, (request, response) => registry.serve(request, response)),
  );
  configure({ [host]: { insecure: false } });
  await failure(store.pull(`${host}/app`), 'ERR_REGISTRY_TLS');
  const directory = `/etc/docker/certs.d/${host}`;
  const made = fs.mkdirSync(directory, { recursive: true });
  onTestFinished(() => {
    // What was not there before.
    fs.rmSync(directory, { recursive: true, force: true });
    if (made !== undefined) fs.rmSync(made, { recursive: true, force: true });
  });
  fs.copyFileSync(at('cert'), path.join(directory, 'ca.crt'));
  await failure(store.pull(`${host}/app`, { retries: 0 }), 'ERR_REGISTRY_UNREACHABLE');
  fs.copyFileSync(at('cert'), path.join(directory, 'client.cert'));
  fs.copyFileSync(at('key'), path.join(directory, 'client.key'));
  await store.pull(`${host}/app`);
  fs.rmSync(path.join(directory, 'client.key'));
  await failure(store.pull(`${host}/app`), 'ERR_REGISTRY_CONFIG');
});
