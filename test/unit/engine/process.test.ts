import { describe, expect, test } from 'vitest';

import { signalNumber } from '../../../src/engine/signals.js';
import { mergeCommand, mergeEnvironment, mergeProcess } from '../../../src/engine/process.js';
import { buildRuntimeSpec, variablePart } from '../../../src/engine/runtime-spec.js';
import type { ImageConfig } from '../../../src/image/index.js';
import { checkOciSpec } from '../../../src/vm/spec.js';

describe('the command, as docker merges it', () => {
  const image = { Entrypoint: ['/init'], Cmd: ['serve'] };

  test.each([
    ['nothing given', {}, ['/init', 'serve']],
    ['a command', { cmd: ['sh', '-c', 'x'] }, ['/init', 'sh', '-c', 'x']],
    ['an empty command', { cmd: [] }, ['/init', 'serve']],
    ['an entrypoint', { entrypoint: '/bin/sh' }, ['/bin/sh']],
    ['both', { entrypoint: '/bin/sh', cmd: ['-c', 'x'] }, ['/bin/sh', '-c', 'x']],
    ['an entrypoint in parts', { entrypoint: ['a', 'b'], cmd: ['c'] }, ['a', 'b', 'c']],
    ['no entrypoint', { entrypoint: '', cmd: ['x'] }, ['x']],
  ])('%s', (_, options, args) => {
    expect(mergeCommand(image, options).args).toEqual(args);
  });

  test.each([
    ['an image without any', {}, {}],
    ['an image with nulls', { Entrypoint: null, Cmd: null }, {}],
    ['an entrypoint taken away', image, { entrypoint: '' }],
  ])('%s: no command', (_, config, options) => {
    expect(() => mergeCommand(config, options)).toThrow(
      expect.objectContaining({ code: 'ERR_NO_COMMAND', exitCode: 125 }),
    );
  });
});

describe('the environment', () => {
  test('docker’s defaults, then the image, then files, then the caller', () => {
    expect(
      mergeEnvironment(
        { Env: ['PATH=/image', 'A=image', 'B=image'] },
        'host1',
        [
          { name: 'A', value: 'file' },
          { name: 'C', value: 'file' },
        ],
        ['C=caller', 'D', 'B'],
        { D: 'shell' },
      ),
    ).toEqual(['PATH=/image', 'HOSTNAME=host1', 'A=file', 'C=caller', 'D=shell']);
  });

  test('as an object', () => {
    expect(mergeEnvironment({}, 'h', [], { A: 'x=y' }, {})).toEqual([
      'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
      'HOSTNAME=h',
      'A=x=y',
    ]);
  });
});

test('user and directory: the caller before the image, else root and /', () => {
  const pick = (image: object, options: object): unknown => {
    const { cwd, user } = mergeProcess({ Cmd: ['x'], ...image }, options, 'h', [], {});
    return [cwd, user];
  };
  expect(pick({}, {})).toEqual(['/', '']);
  expect(pick({ WorkingDir: '/app', User: 'app' }, {})).toEqual(['/app', 'app']);
  expect(pick({ WorkingDir: '/app', User: 'app' }, { workdir: '/w', user: '0' })).toEqual([
    '/w',
    '0',
  ]);
  expect(pick({ WorkingDir: '', User: '' }, {})).toEqual(['/', '']);
});

describe('the runtime spec', () => {
  const image: ImageConfig = {
    architecture: 'amd64',
    os: 'linux',
    config: { StopSignal: 'SIGINT', ExposedPorts: { '80/tcp': {}, '443/tcp': {} } },
    rootfs: { type: 'layers', diff_ids: [] },
  };
  const build = (user: string) =>
    buildRuntimeSpec({
      process: { args: ['a'], entrypointLength: 0, env: ['A=1'], cwd: '/', user },
      hostname: 'h',
      image,
      volumes: [{ type: 'bind', source: '/s', target: '/t', readOnly: true, file: false }],
      options: { sysctls: ['net.core.somaxconn=1024', 'kernel.x=a=b'] },
      tty: false,
      rootPath: '/r',
    });

  test('is valid, also after a trip through JSON', () => {
    expect(() => checkOciSpec(JSON.parse(JSON.stringify(build(''))))).not.toThrow();
  });

  test('what is checked at each start is what is not the same in all of them', () => {
    const spec = build('');
    const { process, mounts, linux } = variablePart(spec);
    expect(process).not.toHaveProperty('capabilities');
    expect(process).not.toHaveProperty('rlimits');
    expect(mounts).toEqual(spec.mounts?.slice(-1));
    expect(linux).toEqual({ sysctl: spec.linux?.sysctl });
    const other = {
      ...spec,
      process: { ...spec.process, capabilities: { bounding: ['wrong'] }, rlimits: [] },
      mounts: spec.mounts?.slice(1) ?? [],
    };
    expect(variablePart(other)).toMatchObject({ process: other.process, mounts: other.mounts });
    expect(() => checkOciSpec(variablePart(other))).toThrow(/capabilities/);
  });

  test('kernel parameters, and what docker hides', () => {
    expect(build('').linux?.sysctl).toEqual({ 'net.core.somaxconn': '1024', 'kernel.x': 'a=b' });
    expect(build('').linux?.maskedPaths).toContain('/proc/kcore');
    expect(build('').linux?.readonlyPaths).toContain('/proc/sys');
  });

  test('numbers of a numeric user, and the words for init', () => {
    expect(build('1000:50').process.user).toEqual({ uid: 1000, gid: 50 });
    expect(build('1000:50').annotations?.['dev.clearvm.user']).toBe('1000:50');
    expect(build('app').process.user).toEqual({ uid: 0, gid: 0 });
    expect(build('app').annotations?.['dev.clearvm.user']).toBe('app');
  });

  test('volumes are bind mounts; the image’s rest are annotations', () => {
    expect(build('').mounts?.at(-1)).toEqual({
      destination: '/t',
      type: 'bind',
      source: '/s',
      options: ['rbind', 'ro'],
    });
    expect(build('').annotations).toMatchObject({
      'org.opencontainers.image.stopSignal': 'SIGINT',
      'org.opencontainers.image.exposedPorts': '80/tcp,443/tcp',
    });
  });

  test('every number in it fits into the integers that other readers use', () => {
    for (const limit of build('').process.rlimits ?? []) {
      expect(BigInt(JSON.stringify(limit.hard))).toBeLessThan(2n ** 64n);
    }
  });
});

describe('signals', () => {
  test.each([
    ['SIGTERM', 15],
    ['term', 15],
    ['KILL', 9],
    ['9', 9],
    [34, 34],
    ['SIGUSR1', 10],
    ['SIGRTMIN+1', 35],
    ['RTMAX-2', 62],
  ])('%s', (signal, number) => {
    expect(signalNumber(signal)).toBe(number);
  });

  test.each(['SIGFOO', 'RTMIN-1', 'RTMAX+1', '', '0', '65', -1, 1.5, 'toString'])(
    'not %s',
    (signal) => {
      expect(() => signalNumber(signal)).toThrow(expect.objectContaining({ code: 'ERR_SIGNAL' }));
    },
  );
});
