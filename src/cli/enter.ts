/** dist/cli/enter.js: what `launch.ts` loads for an ordinary user, before everything else. */
import { ClearVMError } from '../errors.js';
import { enterUserNamespace } from '../vm/user-namespace.js';

/** Commands that look at nothing which belongs to somebody else inside, and first words that ask for help. */
const OUTSIDE = new Set(['doctor', 'help', 'login', 'logout', 'version']);

/** Starts this command again in the user namespace of the user's containers, if it needs that; ends the process where that fails. */
export function enter(argv: readonly string[]): void {
  const first = argv[0];
  if (first === undefined || OUTSIDE.has(first) || /^(-h|-v|--help|--version)$/.test(first)) return;
  try {
    enterUserNamespace();
  } catch (error) {
    const { message } = error as Error;
    process.stderr.write(`clearvm: ${message}\n`);
    process.exit(error instanceof ClearVMError ? error.exitCode : 1);
  }
}
