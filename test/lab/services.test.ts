// Services that people run, as they are in Debian: each in a VM of its own, and used from inside it, for there is no network yet.
import { afterAll, beforeAll, expect, test } from 'vitest';

import { SERVICES, ServiceHost } from './service-host.js';
import { LONG } from './support.js';

let host: ServiceHost;
beforeAll(async () => {
  host = await ServiceHost.start();
});
afterAll(() => host?.close());

test('nginx: pages and 20 MB are fetched whole, HUP brings a new configuration, QUIT ends it', async () => {
  await host.ok(`
    mkdir -p /tmp/site; yes line | head -c 20000000 > /tmp/site/large; echo first > /tmp/site/index.html
    cp /tmp/site/index.html /tmp/site/other.html
    printf 'server { listen 80; root /srv/site; }' > /tmp/site/nginx.conf`);
  await host.service(
    'web',
    '--stop-signal QUIT -v /tmp/site:/srv/site',
    `ln -sf /srv/site/nginx.conf /etc/nginx/sites-enabled/default; mkdir -p /var/log/nginx; exec nginx -g 'daemon off;'`,
    'curl -sf http://localhost/',
  );
  const sums = await host.ok(`
    clearvm exec web curl -sf http://localhost/large | sha256sum; sha256sum < /tmp/site/large
    clearvm exec web curl -s http://localhost/ http://localhost/other.html
    clearvm exec web curl -s -o /dev/null -w '%{http_code}\\n' http://localhost/none`);
  const [fetched, sent, ...pages] = sums.split('\n');
  expect(fetched).toBe(sent);
  expect(pages).toEqual(['first', 'first', '404']);
  // A volume's change is seen at once; a configuration's, when it is told of.
  const moved = await host.ok(`
    echo second > /tmp/site/index.html
    printf 'server { listen 80; root /srv/site; } server { listen 81; location / { return 200 "moved\\\\n"; } }' > /tmp/site/nginx.conf
    clearvm exec web sh -c 'curl -s http://localhost/; curl -s http://localhost:81/ || echo refused'
    clearvm kill -s HUP web > /dev/null
    clearvm exec web sh -c 'until curl -s http://localhost:81/; do sleep 0.1; done'`);
  expect(moved).toBe('second\nrefused\nmoved');
  // Each of 20 clients has ten files.
  const many = await host.ok(
    `clearvm exec web sh -c 'for i in $(seq 20); do curl -sf http://localhost/other.html?[1-10] & done; wait' | sort | uniq -c`,
  );
  expect(many.trim()).toBe('200 first');
  expect(
    await host.ok(`clearvm stop -t 60 web; clearvm inspect -f '{{.State.ExitCode}}' web`),
  ).toBe('web\n0');
  expect(await host.ok(`clearvm rm web`)).toBe('web');
});

test('node: an HTTP server that has worker threads do its sums', async () => {
  const server = `
    const { Worker, isMainThread, parentPort, threadId } = require('node:worker_threads');
    if (!isMainThread) {
      parentPort.on('message', ({ id, n }) => {
        let sum = 0;
        for (let i = 1; i <= n; i++) sum += i;
        parentPort.postMessage({ id, text: n + ' ' + sum + ' ' + threadId + '\\n' });
      });
    } else {
      const waiting = new Map();
      const workers = [0, 1, 2].map(() => new Worker(__filename));
      for (const worker of workers) worker.on('message', ({ id, text }) => waiting.get(id).end(text));
      let id = 0;
      const server = require('node:http').createServer((request, response) => {
        waiting.set(++id, response);
        workers[id % workers.length].postMessage({ id, n: Number(request.url.slice(1)) });
      });
      server.listen(8080);
      process.on('SIGTERM', () => { console.log('closing'); server.close(); workers.forEach((worker) => worker.unref()); });
    }`;
  await host.service(
    'node',
    '--cpus 1',
    `cat > /server.cjs <<'END'\n${server}\nEND\nexec node /server.cjs`,
    'curl -sf http://localhost:8080/1',
  );
  const count = LONG ? 500 : 60;
  const answers = await host.ok(
    `clearvm exec node curl -s --parallel --parallel-max 20 'http://localhost:8080/[1-${count}]000'`,
  );
  const lines = answers.split('\n').map((line) => line.split(' ').map(Number));
  expect(lines).toHaveLength(count);
  for (const [n = 0, sum] of lines) expect(sum).toBe((n * (n + 1)) / 2);
  expect(new Set(lines.map(([n]) => n)).size).toBe(count);
  expect(new Set(lines.map(([, , thread]) => thread))).toEqual(new Set([1, 2, 3]));
  expect(
    await host.ok(`
      clearvm stop -t 60 node; clearvm logs node; clearvm inspect -f '{{.State.ExitCode}}' node; clearvm rm node`),
  ).toBe('node\nclosing\n0\nnode');
});

test('apt: update and install from a mirror, with what it depends on; what was installed is whole', async () => {
  const list = 'deb [trusted=yes] http://127.0.0.1:8000 ./';
  await host.service(
    'apt',
    '',
    `cd /srv/mirror
     for deb in pool/*.deb; do
       dpkg-deb -f $deb
       echo "Filename: $deb\nSize: $(stat -c %s $deb)\nSHA256: $(sha256sum < $deb | cut -d ' ' -f 1)\n"
     done > Packages
     rm -f /etc/apt/sources.list.d/*; echo '${list}' > /etc/apt/sources.list
     exec python3 -m http.server 8000`,
    'curl -sf http://127.0.0.1:8000/Packages',
  );
  const { status, stdout, stderr } = await host.clearvm([
    ...['exec', '-e', 'DEBIAN_FRONTEND=noninteractive', 'apt', 'sh', '-euc'],
    `apt-get -q update; apt-get -qy install jq hello 2>&1
     echo '{"a": [1, 2]}' | jq -c .a; hello; dpkg --verify jq libjq1 libonig5 hello
     dpkg -l jq libjq1 libonig5 hello | grep -c ^ii
     apt-get -qy remove libonig5 2>&1; dpkg -l jq libjq1 | grep -c ^ii || :; hello`,
  ]);
  expect(status, stdout + stderr).toBe(0);
  expect(stdout).toMatch(/Get:\d .*http:\/\/127\.0\.0\.1:8000.* Packages/);
  expect(stdout).toMatch(/Setting up jq /);
  expect(stdout).toMatch(/\n\[1,2\]\nHello, world!\n4\n/);
  expect(stdout).toMatch(/Removing libonig5[^]*\n0\nHello, world!\n$/);
  expect(await host.ok(`clearvm rm -f apt`)).toBe('apt');
});

test('keys that forks make are their own', async () => {
  // VMs from one template, and forks of one that runs.
  const keys = `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256; openssl rand -hex 48`;
  const [count, forks] = LONG ? [20, 10] : [4, 2];
  const lines = await host.ok(`
    for i in $(seq ${count}); do clearvm run --rm ${SERVICES} sh -c '${keys}' | sha256sum; done
    clearvm run -d --name origin ${SERVICES} sleep 1000 > /dev/null
    for id in origin $(clearvm fork --count ${forks} origin); do clearvm exec $id sh -c '${keys}' | sha256sum; done
    clearvm rm -f $(clearvm ps -aq) > /dev/null`);
  expect(new Set(lines.split('\n')).size).toBe(count + 1 + forks);
  expect(lines).not.toContain('e3b0c44298fc1c14'); // of nothing
});
