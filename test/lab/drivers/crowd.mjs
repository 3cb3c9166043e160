// Starts COUNT forked containers at once, has each do what it is told, and says what they cost: `crowd.mjs DIST IMAGE COUNT`.
// Prints JSON: what each has drawn at random, memory before and with all of them, in KiB.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

const [dist, image, count] = process.argv.slice(2);
const { Engine } = await import(dist);
const AT_ONCE = 8;

// At its start, and again when it is told to.
const DRAW = `
  cat /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid
  for source in urandom random; do head -c 32 /dev/$source | hexdump -ve '1/1 "%02x"'; echo; done
  grep stack /proc/self/maps; hostname; mktemp -u; echo drawn`;
const SCRIPT = `draw() { ${DRAW}
}; date +%s; draw; read word; echo "told $word"; draw; exec sleep 100000`;

const available = () =>
  Number(/^MemAvailable: *(\d+)/m.exec(readFileSync('/proc/meminfo', 'latin1'))[1]);
const settle = () => execFileSync('sh', ['-c', 'sync; echo 3 > /proc/sys/vm/drop_caches; sleep 3']);

/** The lines that a container writes, up to the one that `ends`. */
function linesUntil(container, ends) {
  const stream = container.stdout;
  return new Promise((resolve, reject) => {
    let text = '';
    const onData = (chunk) => {
      text += chunk;
      const lines = text.split('\n');
      const at = lines.findIndex((line) => ends.test(line));
      if (at < 0 || at === lines.length - 1) return;
      stream.off('data', onData);
      resolve(lines.slice(0, at));
    };
    stream.on('data', onData);
    stream.once('end', () => {
      const why = (how) => reject(new Error(`${container.name} ended after "${text}": ${how}`));
      container.wait().then(
        (status) => why(JSON.stringify(status)),
        (error) => why(`${error}`),
      );
    });
  });
}

/** Calls `work` for each of the items, AT_ONCE at a time. */
async function each(items, work) {
  const queue = items.entries();
  await Promise.all(
    Array.from({ length: AT_ONCE }, async () => {
      for (const [index, item] of queue) await work(item, index);
    }),
  );
}

const engine = new Engine();
const options = { memory: '128m', cpus: 1, stdin: 'pipe', stdout: 'pipe', stderr: 'ignore' };
await engine.prepare(options);
// The first fork writes down what the next ones need.
const first = await engine.run(image, { ...options, cmd: ['true'] });
await first.wait();

settle();
const before = available();
const crowd = [];
await each(Array.from({ length: Number(count) }), async (_, index) => {
  const from = Date.now();
  const container = await engine.run(image, {
    ...options,
    name: `crowd-${index}`,
    hostname: `h${index}`,
    cmd: ['sh', '-c', SCRIPT],
  });
  const [date, ...drawn] = await linesUntil(container, /^drawn$/);
  const times = [from, Number(date) * 1000, Date.now()];
  crowd.push({ index, container, from: container.startedFrom, times, drawn });
});
settle();
const whileIdle = available();
let pss = 0;
for (const { container } of crowd) {
  pss += Number(
    /^Pss: +(\d+)/m.exec(readFileSync(`/proc/${container.vmmPid}/smaps_rollup`, 'latin1'))[1],
  );
}
await each(crowd, async (one) => {
  const answer = linesUntil(one.container, /^drawn$/);
  one.container.stdin.write(`word${one.index}\n`);
  const [told, ...drawn] = await answer;
  if (told !== `told word${one.index}`) throw new Error(`container ${one.index} says ${told}`);
  one.again = drawn;
});
await each(crowd, ({ container }) => container.stop());
console.log(
  JSON.stringify({
    before,
    whileIdle,
    pss,
    containers: crowd.map(({ container: _, ...rest }) => rest),
  }),
);
