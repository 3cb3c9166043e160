// What a row of the table is, and how rows are run and compared.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PROJECT, type Host } from '../../lab/support.js';

/** What came of a command line. */
export interface Result {
  status: number;
  stdout: string;
  stderr: string;
  /** What `effect` printed. */
  effect: string;
}

/** A difference that is meant: what clearvm does instead. What is not named is the same. */
export interface Difference {
  /** Words of docs/limitations.md. */
  why: string;
  status?: number;
  stdout?: string | RegExp;
  stderr?: RegExp;
  effect?: string | RegExp;
}

/** A command line, run through docker and through clearvm. */
export interface Row {
  /** In a shell; `t` is the tool. Each row has a directory of its own to work in. */
  line: string;
  /** A script before it. */
  before?: string;
  /** A script after it, whose output is compared. */
  effect?: string;
  /** What people and scripts find in both tools' stderr. Unless given, both say something or neither does. */
  says?: RegExp;
  /** Replaces what must differ in stdout and effect. Long ids, times and the tool's name are replaced anyway. */
  mask?: readonly (readonly [RegExp, string])[];
  differs?: Difference;
}

/** Rows that share a tool's containers, and run in their order. */
export interface Topic {
  name: string;
  /** A script before the first row. */
  setup?: string;
  rows: readonly Row[];
}

export const TOOLS = ['docker', 'clearvm'] as const;
export type Tool = (typeof TOOLS)[number];

/** Of one script of a row, in seconds; none takes more than a few on an idle machine. */
const LIMIT = 80;

/** Rows for each command of the lab, which gives up on one that takes longer than some minutes. */
const BATCH = 2;

/** Replaced in all output. */
const MASKS: readonly (readonly [RegExp, string])[] = [
  [/\b(sha256:)?[0-9a-f]{64}\b/g, '$1<ID>'],
  [/\b[0-9a-f]{12}\b/g, '<id>'],
  [/\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?[+-]\d\d:?\d\d| ?Z)?( UTC)?/g, '<time>'],
  [/\b(About an? |Less than a )?(\d+ )?(second|minute|hour|day|week|month|year)s?\b/g, '<age>'],
];

/** Makes what must differ the same. Columns become single blanks: their widths depend on what is replaced. */
export function normalize(text: string, row: Row): string {
  const masked = [...(row.mask ?? []), ...MASKS].reduce(
    (result, [pattern, replacement]) => result.replace(pattern, replacement),
    text,
  );
  return masked
    .replace(/\bclearvm\b/g, 'docker')
    .replace(/ {2,}/g, ' ')
    .replace(/ +$/gm, '');
}

/** Runs the rows of a topic with a tool, and removes all containers and volumes that they leave. */
export async function runTopic(host: Host, topic: Topic, tool: Tool): Promise<Result[]> {
  const directory = mkdtempSync(join(PROJECT, 'build/behaviour-'));
  try {
    const write = (name: string, script: string | undefined): void =>
      writeFileSync(join(directory, name), script ?? ':');
    write('setup', topic.setup);
    topic.rows.forEach((row, index) => {
      mkdirSync(join(directory, String(index)));
      write(`${index}/before`, row.before);
      write(`${index}/line`, row.line);
      write(`${index}/effect`, row.effect);
    });
    const work = `/tmp/behaviour/${tool}`;
    const shell = async (script: string): Promise<void> => {
      const { status, stderr } = await host.run([
        'bash',
        '-c',
        `export PATH=${work}/bin:$PATH
         run() { timeout -k 1 ${LIMIT} bash "$1" < /dev/null; }
         cd ${work}
         ${script}`,
      ]);
      if (status !== 0) throw new Error(`${topic.name} with ${tool}: ${stderr}`);
    };
    await shell(
      `run ${directory}/setup > ${directory}/log 2>&1 || { cat ${directory}/log >&2; exit 1; }`,
    );
    for (let from = 0; from < topic.rows.length; from += BATCH) {
      await shell(
        `for ((i = ${from}; i < ${Math.min(from + BATCH, topic.rows.length)}; i++)); do
           at=${directory}/$i
           mkdir -p ${work}/rows/${topic.name}/$i && cd ${work}/rows/${topic.name}/$i
           run $at/before > $at/log 2>&1 || { echo "before row $i:" >&2; cat $at/log >&2; exit 1; }
           run $at/line > $at/stdout 2> $at/stderr
           echo $? > $at/status
           run $at/effect > $at/effect.out 2>&1
         done
         true`,
      );
    }
    await shell(
      `left=$(t ps -aq); [ -z "$left" ] || t rm -fv $left > /dev/null
       left=$(t volume ls -q); [ -z "$left" ] || t volume rm $left > /dev/null`,
    );
    return topic.rows.map((_, index) => {
      const read = (name: string): string =>
        readFileSync(join(directory, `${index}`, name), 'utf8');
      return {
        status: Number(read('status')),
        stdout: read('stdout'),
        stderr: read('stderr'),
        effect: read('effect.out'),
      };
    });
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** The command that the rows call `t`, for each tool. */
export async function installTools(host: Host, commands: Record<Tool, string>): Promise<void> {
  for (const tool of TOOLS) {
    const bin = `/tmp/behaviour/${tool}/bin`;
    const script = `mkdir -p ${bin} && printf '#!/bin/sh\\nexec %s "$@"\\n' '${commands[tool]}' > ${bin}/t && chmod +x ${bin}/t`;
    const { status, stderr } = await host.run(['sh', '-c', script]);
    if (status !== 0) throw new Error(stderr);
  }
}

const matches = (text: string, wanted: string | RegExp): boolean =>
  typeof wanted === 'string' ? text === wanted : wanted.test(text);

/** What is wrong with a row: a line for each; none if it is as it should be. */
export function judge(row: Row, docker: Result, clearvm: Result): string[] {
  const wrong: string[] = [];
  const { differs } = row;
  if (docker.status === 124) wrong.push('docker did not end');
  if (
    differs?.status === undefined
      ? clearvm.status !== docker.status
      : clearvm.status !== differs.status
  ) {
    wrong.push(`status: docker ${docker.status}, clearvm ${clearvm.status}`);
  } else if (differs?.status !== undefined && clearvm.status === docker.status) {
    wrong.push('status: there is no difference any more');
  }
  for (const part of ['stdout', 'effect'] as const) {
    const [theirs, ours] = [normalize(docker[part], row), normalize(clearvm[part], row)];
    const wanted = differs?.[part];
    if (wanted === undefined ? ours !== theirs : !matches(ours, wanted)) {
      wrong.push(
        `${part}: docker ${JSON.stringify(theirs)}\n${' '.repeat(part.length - 1)}clearvm ${JSON.stringify(ours)}`,
      );
    } else if (wanted !== undefined && ours === theirs) {
      wrong.push(`${part}: there is no difference any more`);
    }
  }
  const says = (text: string): boolean =>
    row.says === undefined ? (text !== '') === (docker.stderr !== '') : row.says.test(text);
  if (!says(docker.stderr)) wrong.push(`docker says ${JSON.stringify(docker.stderr)}`);
  if (
    differs?.stderr === undefined ? !says(clearvm.stderr) : !differs.stderr.test(clearvm.stderr)
  ) {
    wrong.push(
      `stderr: docker ${JSON.stringify(docker.stderr)}\n       clearvm ${JSON.stringify(clearvm.stderr)}`,
    );
  } else if (differs?.stderr !== undefined && says(clearvm.stderr) && row.says !== undefined) {
    wrong.push('stderr: there is no difference any more');
  }
  return wrong;
}
