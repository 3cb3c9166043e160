import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { countIds } from '../../src/engine/doctor-user.js';
import { sandboxCommand } from '../../src/image/untar.js';
import {
  defaultRoot,
  defaultRuntimeDirectory,
  isOutside,
  isRootless,
} from '../../src/user-namespace.js';

// What the kernel would say inside.
vi.mock('node:fs', async (original) => {
  const fs = await original<typeof import('node:fs')>();
  const readFileSync = (file: string, ...rest: [BufferEncoding]): string =>
    file === '/proc/self/uid_map' ? '0 987654 1\n1 100000 65536\n' : fs.readFileSync(file, ...rest);
  return { ...fs, readFileSync };
});

beforeEach(() => {
  for (const name of ['CLEARVM_USERNS', 'CLEARVM_USERNS_DIRECTORY']) vi.stubEnv(name, undefined);
  vi.stubEnv('HOME', '/home/alice');
  vi.stubEnv('XDG_DATA_HOME', undefined);
  vi.stubEnv('XDG_RUNTIME_DIR', undefined);
});
afterEach(() => {
  vi.unstubAllEnvs();
  vi.restoreAllMocks();
});

function as(uid: number): void {
  vi.spyOn(process as { getuid: () => number }, 'getuid').mockReturnValue(uid);
}

test("root's containers are where they always were, whatever the XDG variables say", () => {
  as(0);
  vi.stubEnv('XDG_DATA_HOME', '/x');
  vi.stubEnv('XDG_RUNTIME_DIR', '/y');
  expect([isOutside(), isRootless()]).toEqual([false, false]);
  expect([defaultRoot(), defaultRuntimeDirectory()]).toEqual(['/var/lib/clearvm', '/run/clearvm']);
  expect(sandboxCommand()[0]).toBe('sh');
});

test("an ordinary user's are the user's own, and the same outside and inside of the namespace", () => {
  as(987_654);
  expect([isOutside(), isRootless()]).toEqual([true, false]);
  expect([defaultRoot(), defaultRuntimeDirectory()]).toEqual([
    '/home/alice/.local/share/clearvm',
    '/tmp/clearvm-run-987654',
  ]);
  vi.stubEnv('XDG_DATA_HOME', '/x');
  vi.stubEnv('XDG_RUNTIME_DIR', '/y');
  expect([defaultRoot(), defaultRuntimeDirectory()]).toEqual(['/x/clearvm', '/y/clearvm']);

  as(0);
  vi.stubEnv('CLEARVM_USERNS', '/bin/clearvm-userns');
  vi.stubEnv('CLEARVM_USERNS_DIRECTORY', '/z/clearvm');
  expect([isOutside(), isRootless()]).toEqual([false, true]);
  expect([defaultRoot(), defaultRuntimeDirectory()]).toEqual(['/x/clearvm', '/z/clearvm']);
  expect(sandboxCommand()[0]).toBe('/bin/clearvm-userns');
});

test('the variables of a namespace that this process has left mean nothing', () => {
  vi.stubEnv('CLEARVM_USERNS', '/bin/clearvm-userns');
  as(987_654);
  expect(isRootless()).toBe(false);
});

test('counts the ids of a mapping', () => {
  expect(countIds('         0       1000          1\n         1     100000      65536\n')).toBe(
    65_537,
  );
  expect(countIds('0 0 4294967295')).toBe(4_294_967_295);
  expect(countIds('')).toBe(0);
});
