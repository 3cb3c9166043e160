// A container's files from the outside while it runs: cp, diff, export, commit and the journal of events. The rules for names are
// tested by test/unit/engine/files.test.ts.
import { afterAll, beforeAll, expect, test } from 'vitest';

import { IMAGE, PROJECT, RUNTIME, startHost, type Host } from './support.js';

let host: Host;
beforeAll(async () => {
  host = await startHost();
  const setUp = await host.shell(`
    clearvm run -d --name live -v data:/data ${IMAGE} sh -c '
      mkdir -p /etc/app/sub; echo conf > /etc/app/conf; echo sub > /etc/app/sub/file; chown 12:34 /etc/app/conf
      ln -s /etc/app /link; ln -s /tmp/secret /abs; rm /etc/group
      echo in > /data/in; echo ready; while :; do sleep 0.1; done' > /dev/null
    until clearvm logs live | grep -q ready; do sleep 0.1; done
    mkdir -p /tmp/tree/sub /tmp/secret; echo one > /tmp/tree/one; echo two > /tmp/tree/sub/two
    ln -s one /tmp/tree/link; echo secret > /tmp/secret/file; chmod 750 /tmp/tree/sub; chown 5:6 /tmp/tree/one`);
  expect(setUp).toMatchObject({ status: 0, stderr: '' });
});
afterAll(() => host?.close());

/** The output of a script, errors in it. */
async function output(script: string): Promise<string[]> {
  const { stdout } = await host.shell(`{ ${script}\n} 2>&1`);
  return stdout.trimEnd().split('\n');
}

test('cp out of it: what it has just written, volumes, an archive; and nothing that its links lead to', async () => {
  expect(
    await output(`
      mkdir /tmp/out; cd /tmp/out
      clearvm exec live sh -c 'echo fresh > /fresh'; clearvm cp -q live:/fresh .; cat fresh
      clearvm cp live:/etc/app made 2>&1 | sed 's/copied .* to/copied N to/'; ls made
      clearvm cp -q live:/data/in vol; cat vol
      clearvm cp -q live:/etc/app - | tar -tv | awk '{ print $2, $6 }' | sort | tr '\\n' ' '; echo
      clearvm cp -q -L live:/abs stolen; echo $?; clearvm cp -q live:/abs/file stolen; echo $?; ls`),
  ).toEqual([
    ...['fresh', 'Successfully copied N to made', 'conf', 'sub', 'in'],
    '0/0 app/ 0/0 app/sub/ 0/0 app/sub/file 12/34 app/conf ',
    ...['clearvm: Could not find the file /abs in container live', '1'],
    ...['clearvm: Could not find the file /abs/file in container live', '1'],
    ...['fresh', 'made', 'vol'],
  ]);
});

test('cp into it is seen at once, in the place of what it had read and of what it had missed', async () => {
  expect(
    await output(`
      clearvm exec live sh -c 'cat /etc/app/conf; ls /new /etc/app/none 2>/dev/null'
      echo new > /tmp/conf; cd /tmp
      clearvm cp -q conf live:/etc/app/; clearvm cp -q conf live:/new; clearvm cp -q tree live:/dir
      clearvm cp -q conf live:/data; clearvm cp -q conf live:/link/by-link
      clearvm exec live sh -c 'cat /etc/app/conf /new /etc/app/by-link /data/conf; cd /dir; find . | sort | tr "\\n" " "; echo; readlink link; stat -c "%u:%g %a" one sub; ls /etc/app /data'
      tar -C /tmp/tree -c sub | clearvm cp -q - live:/data; clearvm exec live ls /data/sub
      clearvm cp -q conf live:/abs/file; echo $?; cat /tmp/secret/file; ls /tmp/secret`),
  ).toEqual([
    ...['conf', 'new', 'new', 'new', 'new'],
    ...['. ./link ./one ./sub ./sub/two ', 'one', '0:0 644', '0:0 750'],
    ...['/data:', 'conf', 'in', '', '/etc/app:', 'by-link', 'conf', 'sub', 'two'],
    ...['clearvm: Could not find the file /abs in container live', '1', 'secret', 'file'],
  ]);
});

test('diff, export and commit', async () => {
  const lines = await output(`
    clearvm run --name work -e A=b -w /tmp -l c=d ${IMAGE} sh -c '
      echo x > /added; rm /etc/group; echo y >> /etc/passwd; rm -r /var; mkdir -p /var/new; mkdir /etc/dir'
    clearvm diff work; clearvm export work | tar -t | grep -cE '^(added|etc/passwd|etc/group|bin/sh)$'
    id=$(clearvm commit -a me -m why -c 'CMD ["cat", "/added"]' -c 'ENV E=f' work made:1); echo \${id%:*}
    clearvm run --rm made:1; clearvm run --rm made:1 sh -c 'pwd; echo $A $E; ls -d /etc/group /var/*; tail -n 1 /etc/passwd'
    clearvm rm work > /dev/null; clearvm rmi made:1 | grep -c Untagged
    clearvm commit live > /dev/null; echo $?; clearvm ps --filter name=live --format '{{.State}}'`);
  const at = lines.indexOf('3');
  expect(lines.slice(0, at)).toEqual(
    expect.arrayContaining([
      ...[
        'A /added',
        'C /etc',
        'A /etc/dir',
        'D /etc/group',
        'C /etc/passwd',
        'C /var',
        'A /var/new',
      ],
    ]),
  );
  expect(lines.slice(at)).toEqual([
    ...[
      '3',
      'sha256',
      'x',
      '/tmp',
      'b f',
      'ls: /etc/group: No such file or directory',
      '/var/new',
      'y',
    ],
    ...['1', '0', 'running'],
  ]);
});

test('events: of kept containers, of --rm, of images; what was, and what comes', async () => {
  const lines = await output(`
    clearvm events --since $(date +%s.%N) --filter type=container --format '{{.Action}} {{.Actor.Attributes.name}}' > /tmp/events & watcher=$!
    clearvm events --since 1h --until 0s --filter container=work --format '{{.Type}} {{.Action}}' | tr '\\n' ,; echo
    clearvm events --since 1h --until 0s --filter type=image --format '{{.Action}}' | sort -u | tr '\\n' ,; echo
    clearvm events --since 1h --until 0s --filter event=die --format json | tail -n 1 | grep -oE '"exitCode":"[0-9]+"|"timeNano":[0-9]{19}' | sed 's/:[0-9]*$//'
    clearvm run --rm --name brief ${IMAGE} sh -c 'exit 4'
    clearvm run -d --name later --restart on-failure:1 -l a=b ${IMAGE} sh -c 'exit 5' > /dev/null
    until [ "$(grep -c 'die later' /tmp/events)" = 2 ]; do sleep 0.1; done
    clearvm wait later; clearvm rename later new; clearvm rm new > /dev/null
    until grep -q 'destroy new' /tmp/events; do sleep 0.1; done; kill $watcher; tr '\\n' , < /tmp/events`);
  expect(lines).toEqual([
    'container create,container start,container die,container destroy,',
    ...['delete,load,tag,untag,', '"exitCode":"0"', '"timeNano"', '5'],
    'create brief,start brief,die brief,destroy brief,create later,start later,die later,start later,die later,rename new,destroy new,',
  ]);
});

test('the library: archives as streams, and no mount is left', async () => {
  const { stdout, stderr } = await host.run([
    ...[process.execPath, '--input-type=module', '-e'],
    `import { Engine } from '${PROJECT}/dist/index.js';
     import { Readable } from 'node:stream';
     const container = await new Engine().container('live');
     await container.waitUntil({ log: /^ready$/m });
     await container.waitUntil({ command: ['test', '-e', '/data/in'] });
     let size = 0;
     for await (const chunk of await container.readArchive('/etc/app')) size += chunk.length;
     console.log(size % 512, size > 1024);
     const error = await container.writeArchive('/data', Readable.from([Buffer.alloc(700, 1)])).catch((error) => error);
     console.log(error.code);
     console.log((await container.changes()).some(({ kind, path }) => kind === 'D' && path === '/etc/group'));`,
  ]);
  expect(stderr).toBe('');
  expect(stdout).toBe('0 true\nERR_COPY\ntrue\n');
  expect(
    (await host.shell(`ls ${RUNTIME}/*/ | grep -c scratch; grep -c view /proc/mounts`)).stdout,
  ).toBe('0\n0\n');
});
