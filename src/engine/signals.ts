/** Signals by name and number. */
import { ClearVMError } from '../errors.js';
import { SIGNALS } from '../vm/constants.js';

/** A signal's number of its name, with or without SIG, or of a number. Errors: ERR_SIGNAL. */
export function signalNumber(signal: string | number): number {
  const text = String(signal).toUpperCase();
  const number = /^\d+$/.test(text)
    ? Number(text)
    : (SIGNALS[text.startsWith('SIG') ? text : `SIG${text}`] ?? realTime(text));
  if (number === undefined || number < 1 || number > 64) {
    throw new ClearVMError('ERR_SIGNAL', `Invalid signal: ${signal}`, { field: 'signal' });
  }
  return number;
}

/** RTMIN, RTMIN+n, RTMAX, RTMAX-n, as glibc counts them. */
function realTime(text: string): number | undefined {
  const [, end, sign, offset = '0'] = /^(?:SIG)?RT(MIN|MAX)(?:([+-])(\d+))?$/.exec(text) ?? [];
  if (end === undefined) return undefined;
  const number = (end === 'MIN' ? 34 : 64) + (sign === '-' ? -1 : 1) * Number(offset);
  return number >= 34 ? number : undefined;
}
