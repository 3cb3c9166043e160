/** clearvm login */
import { text } from 'node:stream/consumers';

import type { Command } from './command.js';
import { usageError } from './options.js';

export const command: Command = {
  usage: 'login [OPTIONS] [REGISTRY]',
  summary: 'Log in to a registry; the login is kept where docker keeps its own',
  options: {
    username: { type: 'string', short: 'u', value: 'NAME', describe: 'User name' },
    password: { type: 'string', short: 'p', value: 'PASSWORD', describe: 'Password or token' },
    'password-stdin': { type: 'boolean', describe: 'Read the password from standard input' },
  },
  operands: [0, 1],
  failureStatus: 1,
  examples: [
    ['clearvm login -u me', 'to Docker Hub; asks for the password'],
    ['clearvm login -u me --password-stdin registry.lan:5000 < token', 'in a script'],
  ],

  async run({ options, operands }, context) {
    const { ask, askSecret } = await import('./ask.js');
    let username = options.text('username');
    let password = options.text('password');
    if (options.flag('password-stdin')) {
      if (password !== undefined) {
        throw usageError('--password and --password-stdin are mutually exclusive', 'login');
      }
      if (username === undefined)
        throw usageError('Must provide --username with --password-stdin', 'login');
      password = (await text(process.stdin)).replace(/\r?\n$/, '');
    } else if (password !== undefined) {
      process.stderr.write(
        'WARNING! Using --password via the CLI is insecure. Use --password-stdin.\n',
      );
    }
    if ((username === undefined || password === undefined) && !process.stdin.isTTY) {
      throw usageError('Cannot perform an interactive login from a non TTY device', 'login');
    }
    username ??= await ask('Username: ');
    password ??= await askSecret('Password: ');
    if (username === '' || password === '') {
      throw usageError('username and password must not be empty', 'login');
    }
    const [registry] = operands;
    const { images } = await context.engine();
    const file = await images.login({
      username,
      password,
      ...(registry === undefined ? {} : { registry }),
    });
    if (file !== undefined) {
      process.stderr.write(
        `WARNING! Your password will be stored unencrypted in ${file}.\n` +
          'Configure a credential helper to remove this warning (docs/images.md).\n\n',
      );
    }
    process.stdout.write('Login Succeeded\n');
    return 0;
  },
};
