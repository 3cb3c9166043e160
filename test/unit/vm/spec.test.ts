import { describe, expect, test } from 'vitest';

import { SpecTag } from '../../../src/vm/protocol.js';
import { checkOciSpec, encodeSpec, type OciSpec } from '../../../src/vm/spec.js';

const minimal: OciSpec = {
  ociVersion: '1.0.2',
  process: { args: ['true'], cwd: '/', user: { uid: 0, gid: 0 } },
  root: { path: 'rootfs' },
};
const context = { shares: new Map(), files: [], stdin: false };

/** Takes TLVs apart again, independently of the writer. */
function decode(bytes: Buffer): [number, Buffer][] {
  const tlvs: [number, Buffer][] = [];
  for (let at = 0; at < bytes.length;) {
    const length = bytes.readUInt32LE(at + 4);
    expect(bytes.readUInt16LE(at + 2)).toBe(0);
    tlvs.push([bytes.readUInt16LE(at), bytes.subarray(at + 8, at + 8 + length)]);
    at += 8 + length;
  }
  return tlvs;
}

function values(spec: OciSpec, tag: number, more = {}): Buffer[] {
  return decode(encodeSpec(spec, { ...context, ...more }))
    .filter(([each]) => each === tag)
    .map(([, value]) => value);
}

function withProcess(process: Partial<OciSpec['process']>): OciSpec {
  return { ...minimal, process: { ...minimal.process, ...process } };
}

describe('encodeSpec', () => {
  test('the least', () => {
    const tlvs = decode(encodeSpec(minimal, context)).map(([tag, value]) => [
      tag,
      value.toString(),
    ]);
    expect(tlvs).toEqual([
      [
        SpecTag.ROOT,
        '9p\0root\0trans=virtio,version=9p2000.L,msize=512000,access=client,cache=loose\0',
      ],
      [SpecTag.ARG, 'true'],
      [SpecTag.CWD, '/'],
      [SpecTag.USER, '0:0'],
      [SpecTag.FLAGS, '\0\0\0\0'],
    ]);
  });

  test('arguments and environment, in order, empty ones too', () => {
    const spec = withProcess({ args: ['sh', '', '-c'], env: ['B=1', 'A=', 'C=ü'] });
    expect(values(spec, SpecTag.ARG).map(String)).toEqual(['sh', '', '-c']);
    expect(values(spec, SpecTag.ENV).map(String)).toEqual(['B=1', 'A=', 'C=ü']);
  });

  test("the user's own words go before numbers", () => {
    const spec = { ...minimal, annotations: { 'dev.clearvm.user': 'app:staff' } };
    expect(values(spec, SpecTag.USER).map(String)).toEqual(['app:staff']);
  });

  test('flags', () => {
    const spec = withProcess({
      terminal: true,
      noNewPrivileges: true,
      consoleSize: { height: 24, width: 80 },
    });
    spec.root = { path: 'rootfs', readonly: true };
    expect(values(spec, SpecTag.FLAGS, { stdin: true })[0]?.readUInt32LE()).toBe(15);
    expect(values(spec, SpecTag.WINSIZE)[0]?.toString('hex')).toBe('18005000');
  });

  test('capabilities as masks, those above 31 included', () => {
    const spec = withProcess({
      capabilities: {
        bounding: ['CAP_CHOWN', 'CAP_SETFCAP', 'CAP_CHECKPOINT_RESTORE'],
        ambient: ['CAP_AUDIT_CONTROL', 'CAP_SETFCAP'],
      },
    });
    const masks = values(spec, SpecTag.CAPS)[0] as Buffer;
    expect(masks.length).toBe(40);
    expect(masks.readBigUInt64LE(0)).toBe((1n << 0n) | (1n << 31n) | (1n << 40n));
    expect([8, 16, 24].map((at) => masks.readBigUInt64LE(at))).toEqual([0n, 0n, 0n]);
    expect(masks.readBigUInt64LE(32)).toBe((1n << 30n) | (1n << 31n));
  });

  test('limits, with unlimited as all ones', () => {
    const spec = withProcess({
      rlimits: [
        { type: 'RLIMIT_NOFILE', soft: 1024, hard: 524288 },
        { type: 'RLIMIT_CORE', soft: 0, hard: 2 ** 64 - 2048 },
      ],
    });
    const limits = values(spec, SpecTag.RLIMIT).map((value) => [
      value.readUInt32LE(0),
      value.readBigUInt64LE(8),
      value.readBigUInt64LE(16),
    ]);
    expect(limits).toEqual([
      [7, 1024n, 524288n],
      [4, 0n, 0xffff_ffff_ffff_ffffn],
    ]);
  });

  test('bind mounts become 9p mounts of their shares; what init mounts is left out', () => {
    const spec = {
      ...minimal,
      mounts: [
        { destination: '/proc', type: 'proc', source: 'proc' },
        { destination: '/data', type: 'bind', source: '/host', options: ['rbind', 'ro', 'noexec'] },
        { destination: '/etc/app.conf', type: 'bind', source: '/host/app.conf', options: ['rw'] },
        {
          destination: '/scratch',
          type: 'tmpfs',
          source: 'tmpfs',
          options: ['nosuid', 'size=64m'],
        },
      ],
    };
    const shares = new Map([
      ['/data', { tag: 'vol0', file: false }],
      ['/etc/app.conf', { tag: 'vol1', file: true }],
    ]);
    const mounts = values(spec, SpecTag.MOUNT, { shares }).map((value) => [
      value.readBigUInt64LE(0),
      value.readUInt32LE(8),
      value.subarray(16).toString().split('\0'),
    ]);
    const data = 'trans=virtio,version=9p2000.L,msize=512000,access=client,cache=mmap';
    expect(mounts).toEqual([
      [1n | 8n, 0, ['9p', 'vol0', '/data', data, '']],
      [0n, 1, ['9p', 'vol1', '/etc/app.conf', data, '']],
      [2n, 0, ['tmpfs', 'tmpfs', '/scratch', 'size=64m', '']],
    ]);
  });

  test('files, sysctls, and paths to hide', () => {
    const linux = {
      sysctl: { 'net.core.somaxconn': '1024' },
      maskedPaths: ['/proc/kcore'],
      readonlyPaths: ['/proc/sys', '/proc/bus'],
      resources: { pids: { limit: 70 } },
    };
    const spec = { ...minimal, linux };
    const files = [{ path: '/etc/hosts', mode: 0o644, content: '127.0.0.1 ä\n' }];
    expect(values(spec, SpecTag.FILE, { files })[0]?.toString('hex')).toBe(
      'a4010000' + Buffer.from('/etc/hosts\x00127.0.0.1 ä\n').toString('hex'),
    );
    expect(values(spec, SpecTag.SYSCTL).map(String)).toEqual(['net.core.somaxconn=1024']);
    expect(values(spec, SpecTag.PIDS).map((value) => value.readUInt32LE(0))).toEqual([70]);
    const unlimited = { ...minimal, linux: { resources: { pids: { limit: -1 } } } };
    expect(values(unlimited, SpecTag.PIDS)).toEqual([]);
    expect(values(spec, SpecTag.OOM_SCORE)).toEqual([]);
    const scored = withProcess({ oomScoreAdj: -500 });
    expect(values(scored, SpecTag.OOM_SCORE).map((value) => value.readInt32LE(0))).toEqual([-500]);
    expect(values(spec, SpecTag.MASK).map(String)).toEqual(['/proc/kcore']);
    expect(values(spec, SpecTag.READONLY).map(String)).toEqual(['/proc/sys', '/proc/bus']);
  });

  test.each([
    [
      'a bind mount without a share',
      { ...minimal, mounts: [{ destination: '/x', type: 'bind', source: '/y' }] },
    ],
    ['an unknown capability', withProcess({ capabilities: { bounding: ['CAP_FLY'] } })],
    ['an unknown limit', withProcess({ rlimits: [{ type: 'RLIMIT_FUN', soft: 1, hard: 1 }] })],
  ])('refuses %s', (_, spec) => {
    expect(() => encodeSpec(spec, context)).toThrow(
      expect.objectContaining({ code: 'ERR_OCI_SPEC' }),
    );
  });

  test('refuses what does not fit into a frame', () => {
    expect(() => encodeSpec(withProcess({ args: ['x'.repeat(1 << 20)] }), context)).toThrow(
      expect.objectContaining({ code: 'ERR_SPEC_TOO_LARGE' }),
    );
  });

  test('lists that cannot change are encoded once, and come to the same', () => {
    const rlimits = [
      { type: 'RLIMIT_CORE', soft: 1, hard: 2 },
      { type: 'RLIMIT_NOFILE', soft: 3, hard: 4 },
    ];
    const names = ['CAP_CHOWN', 'CAP_SYSLOG'];
    const spec = withProcess({ rlimits, capabilities: { bounding: names, ambient: names } });
    spec.linux = { maskedPaths: ['/a', '/b'], readonlyPaths: ['/c'] };
    const expected = encodeSpec(spec, context);
    for (const list of [rlimits, names, spec.linux.maskedPaths, spec.linux.readonlyPaths]) {
      Object.freeze(list);
    }
    expect(encodeSpec(spec, context)).toEqual(expected);
    expect(encodeSpec(spec, context)).toEqual(expected);
  });
});

describe('checkOciSpec', () => {
  test.each<[string, unknown, string]>([
    ['no arguments', withProcess({ args: [] }), '/process/args'],
    ['a NUL in an argument', withProcess({ args: ['a\0b'] }), '/process/args/0'],
    ['a variable without a name', withProcess({ env: ['=x'] }), '/process/env/0'],
    ['a relative directory', withProcess({ cwd: 'x' }), '/process/cwd'],
    ['a user beyond 32 bits', withProcess({ user: { uid: 2 ** 32, gid: 0 } }), '/process/user/uid'],
    ['no process', { ociVersion: '1.0.2', root: { path: 'x' } }, '/process'],
    ['another version', { ...minimal, ociVersion: '2.0.0' }, '/ociVersion'],
    ['a long host name', { ...minimal, hostname: 'x'.repeat(65) }, '/hostname'],
  ])('names the field: %s', (_, spec, field) => {
    expect(() => checkOciSpec(spec)).toThrow(
      expect.objectContaining({ code: 'ERR_OCI_SPEC', field }),
    );
  });
});
