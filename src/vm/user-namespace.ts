/** The way into the user namespace of an ordinary user's containers. */
import { existsSync, mkdirSync } from 'node:fs';
import { homedir, userInfo } from 'node:os';

import { ClearVMError, messageOf } from '../errors.js';
import { defaultRuntimeDirectory, isOutside } from '../user-namespace.js';
import { DEFAULT_USERNS_PATH, loadAddon } from './native.js';

/** The command line that runs a program in it; its directory is made. Errors: ERR_USER_NAMESPACE. */
export function namespaceCommand(program: readonly string[]): string[] {
  const directory = defaultRuntimeDirectory();
  try {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
  } catch (cause) {
    throw new ClearVMError(
      'ERR_USER_NAMESPACE',
      `cannot make the runtime directory ${directory}: ${messageOf(cause)}`,
      { cause },
    );
  }
  const command = [DEFAULT_USERNS_PATH, '--directory', directory];
  try {
    command.push('--user', userInfo().username);
  } catch {
    // A user without a name is known by number.
  }
  return [...command, '--', ...program];
}

/**
 * Has this program run as root of the user namespace in which an ordinary user's containers are: where it does not yet, it is started
 * again, from its beginning, with the same process id, arguments and streams, and what it has not written is lost. So call it first of all.
 * For root it does nothing. Errors: ERR_USER_NAMESPACE, ERR_ADDON_MISSING, ERR_ADDON_LOAD; what goes wrong on the way is
 * printed, and the process ends with 125.
 */
export function enterUserNamespace(): void {
  if (!isOutside()) return;
  const command = namespaceCommand([
    process.execPath,
    ...process.execArgv,
    ...process.argv.slice(1),
  ]);
  // Inside, no other user's home may be taken for this one's.
  process.env['HOME'] ??= homedir();
  try {
    loadAddon().execute(DEFAULT_USERNS_PATH, command);
  } catch (cause) {
    const why = existsSync(DEFAULT_USERNS_PATH) ? messageOf(cause) : 'it is not there';
    throw new ClearVMError(
      'ERR_USER_NAMESPACE',
      `cannot run ${DEFAULT_USERNS_PATH}: ${why}; build it with \`npm run build\``,
      { cause },
    );
  }
}
