/** yargs: help texts of every command. Command lines are taken apart by parse-run.ts. */
import yargs, { type Argv, type Options } from 'yargs';

import type { Command } from './command.js';
import type { OptionTable } from './options.js';

/** Columns of the help text, at most. */
const HELP_WIDTH = 100;

function yargsOptions(table: OptionTable): Record<string, Options> {
  const result: Record<string, Options> = {};
  for (const [name, spec] of Object.entries(table)) {
    result[name] = {
      ...(spec.type === 'boolean' ? { type: 'boolean' } : { type: 'string', requiresArg: true }),
      ...(spec.type === 'list' ? { array: true, nargs: 1 } : {}),
      ...(spec.short ? { alias: spec.short } : {}),
      describe: spec.value === undefined ? spec.describe : `${spec.value}: ${spec.describe}`,
    };
  }
  return result;
}

function bare(argv: readonly string[]): Argv {
  return yargs([...argv])
    .scriptName('clearvm')
    .help(false)
    .version(false)
    .exitProcess(false)
    .wrap(Math.min(HELP_WIDTH, process.stdout.columns ?? HELP_WIDTH))
    .parserConfiguration({
      'boolean-negation': false,
      'camel-case-expansion': false,
      'dot-notation': false,
      'parse-numbers': false,
      'parse-positional-numbers': false,
    });
}

/** The help text of a command. */
export async function commandHelp(command: Command): Promise<string> {
  const page = bare([])
    .usage(`$0 ${command.usage}\n\n${command.summary}`)
    .options(yargsOptions(command.options))
    .option('help', { type: 'boolean', describe: 'Show this text' })
    .example(command.examples.map(([line, text]) => [line, text] as [string, string]));
  return `${await page.getHelp()}\n`;
}

/** The help text of clearvm itself. */
export async function mainHelp(commands: readonly (readonly [string, string])[]): Promise<string> {
  const page = bare([])
    .usage('$0 [--root DIR] COMMAND [OPTIONS]\n\nRun container images as virtual machines')
    .option('root', {
      type: 'string',
      describe: 'DIR: where images are kept ($CLEARVM_ROOT, /var/lib/clearvm)',
    })
    .option('version', { type: 'boolean', alias: 'v', describe: 'Show the version' })
    .option('help', { type: 'boolean', describe: 'Show this text' })
    .example([
      ['clearvm doctor', 'see whether containers can run here'],
      ['clearvm load -i debian.tar', 'get an image'],
      ['clearvm run --rm debian:12 uname -a', 'run it'],
      ['clearvm run --help', 'options and examples of a command'],
    ]);
  for (const [name, summary] of commands) page.command(name, summary);
  return `${await page.getHelp()}\n`;
}
