/** This command's standard streams, connected to those of a container that has a monitor. */
import type { Readable, Writable } from 'node:stream';

import type { Attachment } from '../engine/attachment.js';
import type { Container } from '../engine/managed.js';

const FORWARDED = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const;
/** What a shell says of a command whose reader has gone. */
const BROKEN_PIPE = 128 + 13;

export interface FollowOptions {
  stdin: boolean;
  /** Shown unless false. */
  stdout?: boolean;
  stderr?: boolean;
  /** Pass signals on to the container's command. */
  forwardSignals: boolean;
  /** Keys that let go of a terminal; docker's unless given. */
  detachKeys?: string | undefined;
}

/** Connects them until the command ends; its exit status. */
export async function follow(
  container: Container,
  attachment: Attachment,
  { stdin, stdout = true, stderr = true, forwardSignals, detachKeys }: FollowOptions,
): Promise<number> {
  if (container.tty) return followTerminal(container, attachment, stdin, detachKeys);
  const receive = (signal: NodeJS.Signals): void => {
    // It fails only when the container ends just now.
    container.kill(signal).catch(() => {});
  };
  if (forwardSignals) for (const signal of FORWARDED) process.on(signal, receive);
  const broken = new Promise<number>((resolve) => {
    for (const stream of [process.stdout, process.stderr]) {
      stream.once('error', () => resolve(BROKEN_PIPE));
    }
  });
  const written = [
    copy(attachment.stdout, stdout ? process.stdout : undefined),
    copy(attachment.stderr, stderr ? process.stderr : undefined),
  ];
  if (stdin) process.stdin.pipe(attachment.stdin);
  attachment.stdin.on('error', () => {});
  try {
    return await Promise.race([broken, finish(container, attachment, written)]);
  } finally {
    for (const signal of FORWARDED) process.off(signal, receive);
    attachment.detach();
  }
}

async function followTerminal(
  container: Container,
  attachment: Attachment,
  stdin: boolean,
  detachKeys: string | undefined,
): Promise<number> {
  const { RawTerminal } = await import('./terminal.js');
  const { DEFAULT_DETACH_KEYS, parseDetachKeys } = await import('./detach-keys.js');
  const keys = parseDetachKeys(detachKeys ?? DEFAULT_DETACH_KEYS);
  const terminal = new RawTerminal(stdin && process.stdin.isTTY, keys);
  try {
    const written = copy(attachment.stdout, process.stdout);
    attachment.stdin.on('error', () => {});
    terminal.connect({
      stdin: attachment.stdin,
      resize: ({ rows, columns }) => attachment.resize(rows, columns),
    });
    const end = await Promise.race([finish(container, attachment, [written]), terminal.detached]);
    if (end !== 'detached') return end;
  } finally {
    terminal.close();
    attachment.detach();
  }
  process.stderr.write('read escape sequence\n');
  return 0;
}

async function finish(
  container: Container,
  attachment: Attachment,
  written: Promise<void>[],
): Promise<number> {
  const status = await attachment.wait();
  await Promise.all(written);
  return (status ?? (await container.wait())).exitCode;
}

/** Without a place to copy it to, it is read all the same. */
function copy(from: Readable, to?: Writable): Promise<void> {
  if (to) from.pipe(to, { end: false });
  else from.resume();
  return new Promise((resolve) => {
    from.once('end', resolve);
  });
}
