import { defineConfig } from 'vitest/config';

const MINUTE = 60_000;

/** Suites that start VMs or labs: one file at a time, and patient. */
const patient = {
  fileParallelism: false,
  testTimeout: 10 * MINUTE,
  hookTimeout: 10 * MINUTE,
  // A child process each: the lab's and the addon's signal handling need a main thread.
  pool: 'forks' as const,
};

export default defineConfig({
  test: {
    projects: [
      { test: { name: 'unit', include: ['test/unit/**/*.test.ts'], pool: 'forks' } },
      { test: { name: 'kvm', include: ['test/kvm/**/*.test.ts'], ...patient } },
      { test: { name: 'lab', include: ['test/lab/**/*.test.ts'], ...patient } },
      { test: { name: 'conformance', include: ['test/conformance/p9-*.test.ts'], ...patient } },
      // Long: not among the suites that `npm test` runs by itself.
      { test: { name: 'programs', include: ['test/conformance/programs.test.ts'], ...patient } },
    ],
  },
});
