/** clearvm version */
import { readFileSync } from 'node:fs';
import { release } from 'node:os';

import { PACKAGE_ROOT } from '../vm/native.js';
import { AGENT_VERSION, CONTROL_VERSION } from '../vm/protocol.js';
import type { Command } from './command.js';

/** This package's version. */
export function packageVersion(): string {
  const text = readFileSync(`${PACKAGE_ROOT}package.json`, 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

export const command: Command = {
  usage: 'version [OPTIONS]',
  summary: 'Show versions',
  options: { json: { type: 'boolean', describe: 'As a JSON object' } },
  operands: [0, 0],
  failureStatus: 1,
  examples: [['clearvm version', 'of clearvm, Node, Linux and the protocols']],

  async run({ options }) {
    const versions = {
      clearvm: packageVersion(),
      node: process.versions.node,
      linux: release(),
      'control protocol': String(CONTROL_VERSION),
      'agent protocol': String(AGENT_VERSION),
    };
    if (options.flag('json')) {
      process.stdout.write(`${JSON.stringify(versions)}\n`);
    } else {
      for (const [name, version] of Object.entries(versions)) {
        process.stdout.write(`${`${name}:`.padEnd(18)}${version}\n`);
      }
    }
    return 0;
  },
};
