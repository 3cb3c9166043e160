import { describe, expect, test } from 'vitest';

import { checkVmConfig, vmmArguments, type VmConfig } from '../../../src/vm/config.js';

const good: VmConfig = {
  version: 1,
  id: 'a'.repeat(64),
  name: 'brisk_heron',
  cpus: 2,
  memory: 128 * 1024 * 1024,
  kernel: '/k/vmlinux',
  initrd: '/k/initramfs.cpio',
  root: { layers: '/r/layers', lower: ['top', 'base'], state: '/r/containers/a' },
  shares: [
    { tag: 'vol0', path: '/data,with:signs' },
    { tag: 'vol1', path: '/ro', readOnly: true, ownership: 'xattrs' },
  ],
  files: [{ path: '/etc/hosts', mode: 0o644, content: '' }],
};

describe('checkVmConfig', () => {
  test('takes a good config', () => {
    expect(() => checkVmConfig(good)).not.toThrow();
  });

  test.each<[string, (config: Record<string, unknown>) => void, string]>([
    ['too many CPUs', (c) => (c['cpus'] = 33), '/cpus'],
    ['half a CPU', (c) => (c['cpus'] = 0.5), '/cpus'],
    ['memory by the byte', (c) => (c['memory'] = 128 * 1024 * 1024 + 1), '/memory'],
    ['little memory', (c) => (c['memory'] = 1024 * 1024), '/memory'],
    ['a relative kernel', (c) => (c['kernel'] = 'vmlinux'), '/kernel'],
    ['no initramfs', (c) => delete c['initrd'], '/initrd'],
    ['a bad id', (c) => (c['id'] = '../x'), '/id'],
    ['an unknown field', (c) => (c['disk'] = {}), '/disk'],
    [
      'a state path that cannot be listed',
      (c) => ((c['root'] as { state: string }).state = '/a,b'),
      '/root/state',
    ],
    [
      'a layer that leads out',
      (c) => ((c['root'] as { lower: string[] }).lower = ['../..']),
      '/root/lower/0',
    ],
    [
      'a tag with a comma',
      (c) => ((c['shares'] as { tag: string }[])[1]!.tag = 'a,ro'),
      '/shares/1/tag',
    ],
    ['a newline in the command line', (c) => (c['cmdline'] = 'a\nb'), '/cmdline'],
    ['a strange backing', (c) => (c['memoryBacking'] = 'disk'), '/memoryBacking'],
  ])('names the field: %s', (_, spoil, field) => {
    const config = structuredClone(good) as unknown as Record<string, unknown>;
    spoil(config);
    expect(() => checkVmConfig(config)).toThrow(
      expect.objectContaining({
        code: 'ERR_VM_CONFIG',
        field,
        message: expect.stringContaining(`VM config: ${field} `) as unknown,
      }),
    );
  });

  test('shows the value that is wrong', () => {
    expect(() => checkVmConfig({ ...good, cpus: 99 })).toThrow(
      'VM config: /cpus must be <= 32 (it is 99)',
    );
  });
});

test('vmmArguments says everything that the config does', () => {
  const memoryReservation = 64 * 1024 * 1024;
  const more = { memoryReservation, debug: true, statistics: true, cmdline: 'a=b c' };
  expect(vmmArguments({ ...good, ...more })).toEqual([
    ...['--cpus', '2', '--memory', '134217728', '--balloon', '67108864'],
    ...['--cmdline', 'a=b c', '--debug', '--statistics'],
    ...['--overlay', 'tag=root,layers=/r/layers,lower=top:base,state=/r/containers/a'],
    ...['--share', 'tag=vol0,path=/data,with:signs'],
    ...['--share', 'tag=vol1,ro,ownership=xattrs,path=/ro'],
  ]);
});
