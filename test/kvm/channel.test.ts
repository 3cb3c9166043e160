// The addon's channels: what the engine talks to its VMMs by.
import { once } from 'node:events';
import { readSync, writeSync } from 'node:fs';
import type { Readable } from 'node:stream';

import { expect, test } from 'vitest';

import { loadAddon } from '../../src/vm/native.js';
import { StdioFds } from '../../src/vm/stdio.js';

const addon = loadAddon();

/** What comes out of a channel, and its end. */
function collect(fd: number) {
  const chunks: Buffer[] = [];
  let resolve!: (all: Buffer) => void;
  const ended = new Promise<Buffer>((done) => (resolve = done));
  const channel = addon.openChannel(fd, (chunk) => {
    if (chunk) chunks.push(chunk);
    else resolve(Buffer.concat(chunks));
  });
  return { channel, ended };
}

test('a pipe is read to its end', async () => {
  const [read, write] = addon.pipe();
  const { ended } = collect(read);
  writeSync(write, 'one ');
  writeSync(write, 'two');
  addon.closeFd(write);
  expect((await ended).toString()).toBe('one two');
});

test('more than a socket takes is written bit by bit, in order', async () => {
  const [a, b] = addon.socketPair();
  const bytes = Buffer.from(Array.from({ length: 1 << 20 }, (_, i) => (i * 7) >> 3));
  const sender = collect(a);
  sender.channel.write(bytes.subarray(0, 1000));
  sender.channel.write(bytes.subarray(1000));
  const { channel, ended } = collect(b);
  let got = 0;
  // Its own end comes when the other one closes: which it may when all has arrived.
  const receiver = setInterval(() => {
    if (got++ > 20) sender.channel.close();
  }, 10);
  const all = await ended;
  clearInterval(receiver);
  expect(all.equals(bytes)).toBe(true);
  // After the end, and after closing, it does nothing.
  channel.write(bytes);
  sender.channel.write(bytes);
  sender.channel.close();
});

test('what a peer said before it closed without having listened is heard, and then its end', async () => {
  const [a, b] = addon.socketPair();
  const { channel, ended } = collect(a);
  channel.write(Buffer.from('never read'));
  writeSync(b, 'last words');
  addon.closeFd(b);
  expect((await ended).toString()).toBe('last words');
});

test('a closed channel has closed its descriptor', async () => {
  const [a, b] = addon.socketPair();
  const { channel } = collect(a);
  channel.close();
  expect(readSync(b, Buffer.alloc(1))).toBe(0);
  addon.closeFd(b);
});

test('what is no descriptor is refused', () => {
  expect(() => addon.openChannel(99_999, () => {})).toThrow(
    expect.objectContaining({ code: 'ERR_CHANNEL', syscall: 'fcntl' }),
  );
});

test('what comes to a paused channel waits where it is', async () => {
  const [read, write] = addon.pipe();
  const heard: string[] = [];
  let end!: () => void;
  const ended = new Promise<void>((resolve) => (end = resolve));
  const channel = addon.openChannel(read, (chunk) => {
    if (!chunk) return end();
    heard.push(chunk.toString());
    channel.pause();
  });
  channel.pause();
  channel.pause();
  writeSync(write, 'one');
  // Another pipe's data comes through the same event loop, behind what this one would have said.
  const [otherRead, otherWrite] = addon.pipe();
  const other = collect(otherRead);
  addon.closeFd(otherWrite);
  await other.ended;
  expect(heard).toEqual([]);
  channel.resume();
  writeSync(write, 'two');
  addon.closeFd(write);
  while (heard.length === 0) await new Promise((resolve) => setImmediate(resolve));
  channel.resume();
  await ended;
  expect(heard.join('')).toBe('onetwo');
});

test('the streams of a container pause for a slow reader, and lose nothing', async () => {
  const stdio = new StdioFds(addon, { stdin: 'ignore', stdout: 'pipe', stderr: 'pipe' });
  const { stdout, stderr } = stdio.streams();
  const bytes = Buffer.from(Array.from({ length: 3 << 20 }, (_, i) => (i * 11) >> 4));
  const writer = addon.openChannel(stdio.vmm[1] as number, () => {});
  writer.write(bytes);
  const chunks: Buffer[] = [];
  for await (const chunk of stdout as Readable) {
    chunks.push(chunk as Buffer);
    await new Promise((resolve) => setImmediate(resolve));
    if (chunks.reduce((sum, { length }) => sum + length, 0) === bytes.length) writer.close();
  }
  expect(Buffer.concat(chunks).equals(bytes)).toBe(true);
  // One that nobody reads lets go of its pipe all the same.
  stderr?.destroy();
  await once(stderr as Readable, 'close');
  expect(() => writeSync(stdio.vmm[2] as number, 'x')).toThrow(/EPIPE/);
  addon.closeFd(stdio.vmm[2] as number);
});
