// What the scripts that set up, build and test share: steps that say how long they took, and the programs they run.
// Node's own modules only: some of these scripts run before `npm ci`.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

/** The project's folder. */
export const TOP = path.dirname(path.dirname(path.dirname(fileURLToPath(import.meta.url))));
const LOGS = path.join(TOP, 'build', 'logs');
const LOG_TAIL_LINES = 60;

/** A program that a step ran has failed; the message ends with what it printed last. */
export class CommandError extends Error {
  constructor(command, how, log, tail) {
    super(
      `${command} ${how}. The whole output is in ${path.relative(TOP, log)}; its end:\n${tail}`,
    );
    this.name = 'CommandError';
    this.code = 'ERR_COMMAND';
  }
}

/** `ms` milliseconds as people read them. */
export function seconds(ms) {
  return ms < 60_000
    ? `${(ms / 1000).toFixed(1)} s`
    : `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}

/**
 * Runs `task(update)` as a named step: a line that moves on a terminal (`update(text)` sets what it shows), and a
 * line with the time at the end. The task may return a remark for that line.
 */
export async function step(name, task) {
  const live = process.stderr.isTTY;
  const start = performance.now();
  let detail = '';
  const show = () => {
    const text = `  ${name} ${seconds(performance.now() - start)} ${detail}`;
    process.stderr.write(`\r\x1b[K${text.slice(0, (process.stderr.columns ?? 80) - 1)}`);
  };
  const timer = live ? setInterval(show, 200) : undefined;
  const finish = (mark, remark = '') => {
    clearInterval(timer);
    const took = seconds(performance.now() - start);
    process.stderr.write(
      `${live ? '\r\x1b[K' : ''}${mark} ${name}${remark && ` (${remark})`}: ${took}\n`,
    );
  };
  try {
    const remark = await task((text) => (detail = text));
    finish('✓', typeof remark === 'string' ? remark : '');
  } catch (error) {
    finish('✗');
    throw error;
  }
}

/**
 * Runs a program, its output into build/logs/`log`.log, and each line of it to `onLine`.
 *
 * @param {string} file
 * @param {string[]} args
 * @param {{log: string, cwd?: string, env?: NodeJS.ProcessEnv, onLine?: (line: string) => void}} options
 * @returns {Promise<string>} its stdout
 * @throws {CommandError}
 */
export async function command(file, args, { log, cwd = TOP, env = process.env, onLine }) {
  fs.mkdirSync(LOGS, { recursive: true });
  const logFile = path.join(LOGS, `${log}.log`);
  const out = fs.createWriteStream(logFile);
  const child = spawn(file, args, { cwd, env, stdio: ['ignore', 'pipe', 'pipe'] });
  let stdout = '';
  let tail = [];
  for (const stream of [child.stdout, child.stderr]) {
    let rest = '';
    stream.setEncoding('utf8');
    stream.on('data', (text) => {
      out.write(text);
      if (stream === child.stdout) stdout += text;
      const lines = (rest + text).split(/\r?\n|\r/);
      rest = lines.pop();
      tail = [...tail, ...lines].slice(-LOG_TAIL_LINES);
      for (const line of lines) onLine?.(line);
    });
    stream.on('end', () => rest && tail.push(rest));
  }
  const how = await new Promise((resolve) => {
    child.on('error', (error) => resolve(`could not be started: ${error.message}`));
    child.on('close', (code, signal) =>
      resolve(code === 0 ? '' : signal ? `was ended by ${signal}` : `failed with status ${code}`),
    );
  });
  await new Promise((resolve) => out.end(resolve));
  if (how) throw new CommandError([file, ...args].join(' '), how, logFile, tail.join('\n'));
  return stdout;
}

/** All files below `folder` (relative to the project) whose name passes `keep`, sorted, relative to the project. */
export function listFiles(folder, keep = () => true) {
  const found = [];
  const visit = (directory) => {
    for (const entry of fs.readdirSync(path.join(TOP, directory), { withFileTypes: true })) {
      const name = path.join(directory, entry.name);
      if (entry.isDirectory()) visit(name);
      else if (keep(name)) found.push(name);
    }
  };
  if (fs.existsSync(path.join(TOP, folder))) visit(folder);
  return found.sort();
}

/** A hash of the names and contents of `files` and of `extra`. */
export function fingerprint(files, extra = '') {
  const hash = createHash('sha256').update(extra);
  for (const file of files) {
    const at = path.join(TOP, file);
    hash.update(`\0${file}\0`).update(fs.existsSync(at) ? fs.readFileSync(at) : 'missing');
  }
  return hash.digest('hex');
}

/**
 * Runs `make` unless `outputs` exist and were made from the same `print`; returns whether it ran.
 * The mark lies in build/, so that removing build/ forgets everything.
 */
export async function unlessUnchanged(name, print, outputs, make) {
  const mark = path.join(TOP, 'build', '.made', name);
  const current = fs.existsSync(mark) && fs.readFileSync(mark, 'utf8') === print;
  if (current && outputs.every((output) => fs.existsSync(path.join(TOP, output)))) return false;
  fs.rmSync(mark, { force: true });
  await make();
  fs.mkdirSync(path.dirname(mark), { recursive: true });
  fs.writeFileSync(mark, print);
  return true;
}

/** Runs a script's main function: a failure is a message and exit status 1, never a stack trace of ours. */
export async function main(task) {
  try {
    await task();
  } catch (error) {
    process.stderr.write(`${error.code ? error.message : error.stack}\n`);
    process.exitCode = 1;
  }
}
