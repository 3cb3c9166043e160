// The examples of the documentation do what they say.
import { afterAll, beforeAll, expect, test } from 'vitest';

import { IMAGE, PROJECT, startHost, type Host } from './support.js';

let host: Host;
beforeAll(async () => {
  host = await startHost();
});
afterAll(() => host?.close());

const example = (name: string): string => `${PROJECT}/docs/examples/${name}.mjs`;

test('sandbox-pool', async () => {
  const before = await host.traces();
  const { stdout, stderr, status } = await host.run([
    process.execPath,
    example('sandbox-pool'),
    IMAGE,
  ]);
  expect(stderr).toBe('');
  expect(status).toBe(0);
  const [sum, user, first, second, endless] = stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as { exitCode: number; stdout: string; stderr: string });
  expect(sum).toMatchObject({ exitCode: 0, stdout: '2 + 3 = 5\n', stderr: '' });
  expect(user?.stdout).toBe('65534\n');
  expect(user?.stderr).toMatch(/Read-only file system|Permission denied/);
  expect(first).toMatchObject({ exitCode: 0, stdout: 'left-behind\n' });
  expect(second).toMatchObject({ exitCode: 3, stdout: '' });
  expect(endless?.exitCode).toBe(137);
  expect(await host.traces()).toBe(before);
});

test('ci-runner', async () => {
  const { stdout, stderr, status } = await host.shell(`
    mkdir -p /tmp/sources; echo 'int main' > /tmp/sources/main.c
    cat > /tmp/job.json <<'JOB'
    {"image": "${IMAGE}", "env": {"CI": "true"}, "memory": "256m", "steps": [
      {"name": "build", "run": "cp main.c main.o; echo CI=$CI; echo warning >&2"},
      {"name": "test", "run": "grep -c main main.o; exit 4"},
      {"name": "deploy", "run": "echo never"}]}
JOB
    ${process.execPath} ${example('ci-runner')} /tmp/job.json /tmp/sources; echo status $?; ls /tmp/sources`);
  expect(stderr).toBe('');
  expect(status).toBe(0);
  const lines = stdout.replace(/ \(\d+\.\d s\)/g, '').split('\n');
  expect(lines).toEqual(
    expect.arrayContaining(['✓ sources', 'build: CI=true', 'build: warning', '✓ build', 'test: 1']),
  );
  expect(lines.slice(-4)).toEqual(['✗ test', 'status 4', 'main.c', '']);
});
