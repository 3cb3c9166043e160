/** What `doctor` says. */

/** What was found out about this host, and what to do about it. */
export interface Finding {
  /** Stable, for programs: `kvm.device`, `kernel.version`, ... */
  id: string;
  /** `error`: containers cannot run; `warning`: they run worse than they could. */
  level: 'ok' | 'warning' | 'error';
  /** What was found, in one line. */
  message: string;
  /** What to do about it; absent when all is well. */
  advice?: string;
}

/** All is well. */
export function ok(id: string, message: string): Finding {
  return { id, level: 'ok', message };
}

/** Something is not, and this is what to do. */
export function bad(
  id: string,
  level: 'warning' | 'error',
  message: string,
  advice: string,
): Finding {
  return { id, level, message, advice };
}
