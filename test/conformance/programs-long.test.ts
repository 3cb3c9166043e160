// Real programs beside runc (programs-host.ts): those that take long.

import { expect, test } from 'vitest';
import { compare, FULL, onBothSides, PATIENCE } from './programs-host.js';

const STRESSORS = [
  ...['cpu=10', 'futex=1000', 'pipe=2000', 'mmap=1', 'hdd=300', 'pthread=100', 'switch=1000'],
  ...['sem-sysv=1000', 'fork=50', 'epoll=500', 'dentry=300', 'rename=300', 'flock=500'],
  'membarrier=1000',
];

compare([
  ['stress-ng', ['stress.sh', '/var/tmp', ...STRESSORS]],
  ['fio verifies what it writes, on the root and on a volume', ['fio.sh', '/var/tmp', '/volume']],
]);

const PYTHON_MODULES = [
  ...['test_os', 'test_shutil', 'test_tempfile', 'test_mmap', 'test_socket', 'test_subprocess'],
];
/** The classes of them that meet the file system, memory mappings, sockets and processes most. */
const PYTHON_PART = [
  ...['FileTests', 'StatAttributeTests', 'UtimeTests', 'LinkTests', 'WalkTests', 'FwalkTests'],
  ...['MakedirTests', 'TestScandir', 'ExtendedAttributeTests', 'TestSendfile', 'MemfdCreateTests'],
  ...['TestRmTree', 'TestCopyTree', 'TestMove', 'TestMkstemp', 'TestNamedTemporaryFile'],
  ...['TestTemporaryDirectory', 'MmapTests', 'BasicTCPTest', 'BasicUDPTest', 'TestUnixDomain'],
  ...['SendmsgUnixStreamTest', 'RecvmsgSCMRightsStreamTest', '*.POSIXProcessTestCase.test_[pswu]*'],
];
/** Classes whose protocols the guest kernel lacks (docs/limitations.md); the lab's kernel has them as modules. */
const NOT_IN_THE_GUEST = /\.(BasicCANTest|ISOTPTest|J1939Test|LinuxKernelCryptoAPI|\w+SCTP\w+)\./;

/** Of the output of python.sh: the outcome of each test. */
function outcomes(text: string): Map<string, string> {
  return new Map(
    text
      .split('\n')
      .filter(Boolean)
      .map((line) => {
        const [outcome = '', ...name] = line.split(' ');
        return [name.join(' '), outcome];
      }),
  );
}

test(
  `CPython's own tests${FULL ? '' : ' (a part)'}`,
  async () => {
    const selection = FULL
      ? PYTHON_MODULES
      : [...PYTHON_PART.flatMap((pattern) => ['-m', pattern]), ...PYTHON_MODULES];
    const { ours, theirs } = await onBothSides(['/programs/python.sh', '/var/tmp', ...selection]);
    const [here, there] = [outcomes(ours.stdout), outcomes(theirs.stdout)];
    const count = (all: Map<string, string>, outcome: string) =>
      [...all.values()].filter((value) => value === outcome).length;
    for (const [side, all] of Object.entries({ clearvm: here, runc: there })) {
      console.log(
        `${side}: ${['passed', 'failed', 'skipped'].map((outcome) => `${count(all, outcome)} ${outcome}`).join(', ')}`,
      );
    }
    expect(count(there, 'passed'), theirs.stderr).toBeGreaterThan(FULL ? 1000 : 200);
    const worse = [...there].filter(
      ([name, outcome]) =>
        outcome === 'passed' &&
        here.get(name) !== (NOT_IN_THE_GUEST.test(name) ? 'skipped' : 'passed'),
    );
    expect(
      worse.map(([name]) => `${name}: ${here.get(name) ?? 'not run'}`),
      ours.stderr,
    ).toEqual([]);
  },
  2 * PATIENCE,
);
