/** Questions to whoever sits at the terminal. */
import { createInterface } from 'node:readline/promises';
import { Writable } from 'node:stream';

/** Asks for a line; '' at the end of input. */
export async function ask(question: string): Promise<string> {
  return readLine(question, process.stdout);
}

/** The same, without showing what is typed. */
export async function askSecret(question: string): Promise<string> {
  process.stdout.write(question);
  const silence = new Writable({ write: (_chunk, _encoding, done) => done() });
  const answer = await readLine('', silence);
  process.stdout.write('\n');
  return answer;
}

async function readLine(question: string, output: NodeJS.WritableStream): Promise<string> {
  const terminal = process.stdin.isTTY === true;
  const reader = createInterface({ input: process.stdin, output, terminal });
  // Ctrl-C at a question ends the command, as anywhere else.
  reader.once('SIGINT', () => process.kill(process.pid, 'SIGINT'));
  const ended = new Promise<string>((resolve) => reader.once('close', () => resolve('')));
  try {
    return (await Promise.race([reader.question(question), ended])).trim();
  } finally {
    reader.close();
  }
}
