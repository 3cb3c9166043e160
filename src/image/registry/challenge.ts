/** One challenge of a WWW-Authenticate header. */
export interface Challenge {
  /** Lower case: `basic`, `bearer`. */
  scheme: string;
  /** Names in lower case. */
  parameters: Record<string, string>;
}

// RFC 9110: token = 1*tchar; a parameter's value is a token or a quoted string.
const TOKEN = "[!#$%&'*+.^_`|~0-9A-Za-z-]+";
const PARAMETER = new RegExp(`^(${TOKEN})\\s*=\\s*(?:"((?:[^"\\\\]|\\\\.)*)"|(${TOKEN}))`);
const SCHEME = new RegExp(`^(${TOKEN})(?:\\s+|$|(?=,))`);

/**
 * The challenges of WWW-Authenticate headers (RFC 9110, 11.6.1), as far as they are well-formed. By hand, because the
 * packages for it refuse docker's `service` parameter or have not been kept for years.
 */
export function parseChallenges(headers: string | string[] | undefined): Challenge[] {
  const challenges: Challenge[] = [];
  for (const header of [headers ?? []].flat()) {
    let rest = header.trim();
    while (rest !== '') {
      rest = rest.replace(/^[\s,]+/, '');
      const parameter = PARAMETER.exec(rest);
      const current = challenges.at(-1);
      if (parameter && current) {
        const [whole, name = '', quoted, token = ''] = parameter;
        current.parameters[name.toLowerCase()] = quoted?.replace(/\\(.)/g, '$1') ?? token;
        rest = rest.slice(whole.length);
        continue;
      }
      const scheme = SCHEME.exec(rest);
      if (!scheme) break;
      challenges.push({ scheme: (scheme[1] ?? '').toLowerCase(), parameters: {} });
      rest = rest.slice(scheme[0].length);
    }
  }
  return challenges;
}
