import os from 'node:os';

import { defineConfig } from 'vitest/config';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;

/** Suites that start VMs or labs. */
const patient = {
  testTimeout: 10 * MINUTE,
  hookTimeout: 10 * MINUTE,
  // A child process each: the lab's and the addon's signal handling need a main thread.
  pool: 'forks' as const,
};

/** Docker and clearvm in one lab: half an hour, so it is a suite of its own. */
const BEHAVIOUR = 'test/conformance/behaviour.test.ts';

/** Minutes for a single snapshot. */
const DATABASE_SNAPSHOTS = 'test/lab/database-snapshots.test.ts';

export default defineConfig({
  test: {
    // Files at a time: a lab has one processor, and 4 GiB. With fewer at least, the last file waits for the others.
    minWorkers: Math.min(2, os.availableParallelism()),
    maxWorkers: Math.min(2, os.availableParallelism()),
    projects: [
      { test: { name: 'unit', include: ['test/unit/**/*.test.ts'], pool: 'forks' } },
      { test: { name: 'kvm', include: ['test/kvm/**/*.test.ts'], ...patient } },
      {
        test: {
          name: 'lab',
          include: ['test/lab/**/*.test.ts'],
          exclude: [DATABASE_SNAPSHOTS],
          ...patient,
        },
      },
      {
        test: {
          name: 'soak',
          include: [
            'test/lab/{services,databases,database-snapshots,streams,faults,crowd,churn}.test.ts',
          ],
          env: { CLEARVM_SOAK: 'long' },
          ...patient,
          testTimeout: 4 * HOUR,
        },
      },
      {
        test: {
          name: 'conformance',
          include: ['test/conformance/**/*.test.ts'],
          exclude: [BEHAVIOUR],
          ...patient,
        },
      },
      { test: { name: 'behaviour', include: [BEHAVIOUR], ...patient, testTimeout: HOUR } },
    ],
  },
});
