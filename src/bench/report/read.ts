/** A report that was written before. */
import { readFileSync } from 'node:fs';

import { ClearVMError, messageOf } from '../../errors.js';
import { validate } from '../../generated/validators/bench-report.js';
import { describeSchemaError } from '../../vm/config.js';
import type { Report } from './types.js';

/** Errors: ERR_BENCH_REPORT for a file that cannot be read, is no JSON, or no report of this version. */
export function readReport(file: string): Report {
  let report: unknown;
  try {
    report = JSON.parse(readFileSync(file, 'utf8'));
  } catch (cause) {
    throw new ClearVMError('ERR_BENCH_REPORT', `${file}: ${messageOf(cause)}`, { cause });
  }
  if (validate(report)) return report as Report;
  const { field, text } = describeSchemaError(validate.errors, report);
  throw new ClearVMError(
    'ERR_BENCH_REPORT',
    `${file} is no report of this version's \`clearvm bench --json\`: ${field || 'it'} ${text}`,
  );
}
