import { describe, expect, test } from 'vitest';

import { applyChanges } from '../../../src/image/changes.js';
import { ImageError } from '../../../src/image/index.js';

describe('applyChanges', () => {
  test.each<[string[], object]>([
    [['CMD ["/bin/sh", "-c", "a b"]'], { Cmd: ['/bin/sh', '-c', 'a b'] }],
    [['cmd echo "a b"'], { Cmd: ['/bin/sh', '-c', 'echo "a b"'] }],
    [['ENTRYPOINT ["/init"]', 'CMD []'], { Entrypoint: ['/init'], Cmd: [] }],
    [['ENV A=1 B="2 3" C=4\\ 5', "ENV D='x=y'"], { Env: ['A=1', 'B=2 3', 'C=4 5', 'D=x=y'] }],
    [['ENV A the rest', 'ENV A=new'], { Env: ['A=new'] }],
    [
      ['EXPOSE 80 53/udp 8000-8001/TCP'],
      { ExposedPorts: { '80/tcp': {}, '53/udp': {}, '8000/tcp': {}, '8001/tcp': {} } },
    ],
    [['VOLUME /a /b', 'VOLUME ["/c d"]'], { Volumes: { '/a': {}, '/b': {}, '/c d': {} } }],
    [['LABEL a=b "c d"="e f"'], { Labels: { a: 'b', 'c d': 'e f' } }],
    [['USER 1000:1000', 'STOPSIGNAL SIGQUIT'], { User: '1000:1000', StopSignal: 'SIGQUIT' }],
    [['WORKDIR /a/./b/..', 'WORKDIR c'], { WorkingDir: '/a/c' }],
    [['ONBUILD RUN true'], { OnBuild: ['RUN true'] }],
    [['HEALTHCHECK NONE'], { Healthcheck: { Test: ['NONE'] } }],
    [
      ['HEALTHCHECK --interval=1m30s --timeout=500ms --retries=3 CMD ["curl", "x"]'],
      { Healthcheck: { Interval: 90e9, Timeout: 5e8, Retries: 3, Test: ['CMD', 'curl', 'x'] } },
    ],
    [['HEALTHCHECK CMD curl x'], { Healthcheck: { Test: ['CMD-SHELL', 'curl x'] } }],
  ])('%j', (changes, config) => {
    expect(applyChanges(changes)).toEqual(config);
  });

  test.each([
    'RUN true',
    'CMD',
    '',
    'CMD ["a", 1]',
    'CMD ["a"',
    'ENV',
    'ENV A',
    'ENV =x',
    'ENV A="x',
    'EXPOSE 0',
    'EXPOSE 70000',
    'EXPOSE 9-8',
    'EXPOSE 80/icmp',
    'USER a b',
    'HEALTHCHECK --bad=1 CMD x',
    'HEALTHCHECK --interval=soon CMD x',
    'HEALTHCHECK maybe',
    'USER a\0b',
  ])('refuses %j', (change) => {
    expect(() => applyChanges([change])).toThrow(ImageError);
    expect(() => applyChanges([change])).toThrow(/cannot apply the change/);
  });
});
