// A pool of warm sandboxes for code that nobody has read: each snippet gets a VM of its own, which was started before the
// snippet came, is used once, and is gone afterwards.
//
//   node docs/examples/sandbox-pool.mjs [IMAGE]      an image with a shell, busybox unless given
import { text } from 'node:stream/consumers';
import { Engine } from 'clearvm';

export class SandboxPool {
  #engine;
  #image;
  #options;
  #warm = [];

  /** `size` VMs wait at any time; `options` are those of `Engine.run`. */
  constructor(engine, image, { size = 2, ...options } = {}) {
    this.#engine = engine;
    this.#image = image;
    this.#options = { memory: '128m', readOnly: true, tmpfs: ['/tmp'], ...options };
    for (let i = 0; i < size; i++) this.#warm.push(this.#start());
  }

  #start() {
    const sandbox = this.#engine.run(this.#image, {
      ...this.#options,
      cmd: ['sh', '-s'], // waits for its script
      user: '65534:65534',
      stdin: 'pipe',
      stdout: 'pipe',
      stderr: 'pipe',
    });
    sandbox.catch(() => {}); // heard of by whom it is for
    return sandbox;
  }

  /** Runs a shell script, for `limitMs` milliseconds at most: then `exitCode` is 137. */
  async run(script, { limitMs = 10_000 } = {}) {
    this.#warm.push(this.#start());
    const sandbox = await this.#warm.shift();
    const limit = setTimeout(() => sandbox.stop(), limitMs);
    sandbox.stdin.on('error', () => {}); // it need not read all of it
    sandbox.stdin.end(script);
    try {
      const ends = [text(sandbox.stdout), text(sandbox.stderr), sandbox.wait()];
      const [stdout, stderr, { exitCode }] = await Promise.all(ends);
      return { exitCode, stdout, stderr };
    } finally {
      clearTimeout(limit);
      await sandbox.stop();
    }
  }

  /** Ends those that wait. */
  async close() {
    const left = await Promise.allSettled(this.#warm);
    await Promise.all(left.map(({ value }) => value?.stop()));
  }
}

if (process.argv[1] === import.meta.filename) {
  const pool = new SandboxPool(new Engine(), process.argv[2] ?? 'busybox');
  const snippets = [
    ['echo "2 + 3 = $((2 + 3))"'],
    ['id -u; touch /etc/passwd'],
    ['echo secret > /tmp/left-behind; ls /tmp'],
    ['ls /tmp; exit 3'],
    ['while :; do :; done', { limitMs: 1000 }],
  ];
  for (const [script, options] of snippets) {
    console.log(JSON.stringify({ script, ...(await pool.run(script, options)) }));
  }
  await pool.close();
}
