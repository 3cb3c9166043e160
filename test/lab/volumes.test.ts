// Volumes: what both sides see, and what the guest cannot reach, in the lab.
import { afterAll, beforeAll, expect, test } from 'vitest';

import { IMAGE, PROJECT, ROOT, startHost, type Host } from './support.js';

let host: Host;
beforeAll(async () => {
  host = await startHost();
});
afterAll(() => host?.close());

test('what the guest writes the host has, and back, also while it runs', async () => {
  const { status, stdout, stderr } = await host.shell(`
    mkdir /tmp/shared; echo before > /tmp/shared/before; mkfifo /tmp/line; exec 3<>/tmp/line
    clearvm run --rm -i -v /tmp/shared:/data ${IMAGE} sh -c '
      cat /data/before; echo guest > /data/guest; mkdir /data/dir; ln -s ../guest /data/dir/link
      chown 12:34 /data/guest; chmod 640 /data/guest; rm /data/before
      echo written; read line; cat /data/host; echo more >> /data/guest' <&3 |
      while read line; do
        echo "$line"
        [ "$line" = written ] || continue
        cat /tmp/shared/guest /tmp/shared/dir/link; stat -c '%u:%g %a' /tmp/shared/guest
        ls /tmp/shared; echo host > /tmp/shared/host; echo go >&3
      done; status="\${PIPESTATUS[0]}"
    echo "after: $(cat /tmp/shared/guest | tr '\\n' ' ')"; exit $status`);
  expect(stderr).toBe('');
  expect(stdout).toBe(
    'before\nwritten\nguest\nguest\n12:34 640\ndir\nguest\nhost\nafter: guest more \n',
  );
  expect(status).toBe(0);
});

test('one file as a volume: it, and not its neighbours', async () => {
  const { status, stdout, stderr } = await host.shell(`
    mkdir /tmp/files; echo one > /tmp/files/one; echo two > /tmp/files/two
    clearvm run --rm -v /tmp/files/one:/etc/one -v /tmp/files/two:/etc/two:ro ${IMAGE} sh -c '
      cat /etc/one; echo changed > /etc/one
      ls /etc/one/.. 2>/dev/null; (echo changed > /etc/two) 2>/dev/null && echo written
      cat /etc/two'
    cat /tmp/files/one /tmp/files/two; ls /tmp/files`);
  expect(stderr).toBe('');
  expect(stdout).toBe('one\ntwo\nchanged\ntwo\none\ntwo\n');
  expect(status).toBe(0);
});

test('a symbolic link that points outside reaches nothing of the host', async () => {
  const { stdout } = await host.shell(`
    mkdir /tmp/inside /tmp/secret; echo secret > /tmp/secret/file
    cd /tmp/inside
    ln -s /tmp/secret/file absolute; ln -s ../secret/file relative; ln -s ../secret directory
    ln -s /proc/self/root/tmp/secret/file magic
    clearvm run --rm -v /tmp/inside:/data ${IMAGE} sh -c '
      cd /data
      for name in absolute relative directory/file magic ../secret/file; do cat $name; done
      ln -s ../../../tmp/secret made; echo overwritten > made/file; ls made/
      mv directory moved; touch moved/new; ln absolute hard; cat hard' 2>&1
    echo "kept: $(cat /tmp/secret/*)"; ls /tmp/secret`);
  const lines = stdout.trimEnd().split('\n');
  expect(lines.splice(-2)).toEqual(['kept: secret', 'file']);
  expect(lines.length).toBeGreaterThan(6);
  for (const line of lines) expect(line).toMatch(/No such file or directory|nonexistent directory/);
});

test(':ro holds against a guest that remounts, and mounts the export anew, with every capability', async () => {
  // `clearvm run` gives no command CAP_SYS_ADMIN: the VMM is started by hand with a spec that does.
  const script = `
    import { spawnSync } from 'node:child_process';
    import { mkdirSync, writeFileSync } from 'node:fs';
    import { Engine } from '${PROJECT}/dist/index.js';
    import { CAPABILITIES } from '${PROJECT}/dist/vm/constants.js';
    import { encodeSpec } from '${PROJECT}/dist/vm/spec.js';
    const engine = new Engine();
    const image = await engine.images.resolve('${IMAGE}');
    const all = CAPABILITIES.filter(Boolean);
    const spec = {
      ociVersion: '1.0.2',
      process: {
        args: ['sh', '-c', process.argv[1]],
        env: ['PATH=/bin'],
        cwd: '/',
        user: { uid: 0, gid: 0 },
        capabilities: { bounding: all, effective: all, permitted: all },
      },
      root: { path: '/' },
      mounts: [{ destination: '/ro', type: 'bind', source: '/tmp/kept', options: ['ro'] }],
    };
    const shares = new Map([['/ro', { tag: 'vol0', file: false }]]);
    writeFileSync('/tmp/spec', encodeSpec(spec, { shares, files: [], stdin: false }));
    for (const name of ['upper', 'work']) mkdirSync('/tmp/state/' + name, { recursive: true });
    const overlay = 'tag=root,layers=' + image.layersDir + ',lower=' + image.lower.join(':') + ',state=/tmp/state';
    const { status } = spawnSync(engine.vmmPath, [
      '--kernel', engine.kernelPath, '--initrd', engine.initrdPath, '--spec', '/tmp/spec',
      '--overlay', overlay, '--share', 'tag=vol0,ro,path=/tmp/kept', '--stdout-fd', '1', '--stderr-fd', '2',
    ], { stdio: 'inherit' });
    process.exitCode = status ?? 1;`;
  const guest = `
    try() { "$@" 2>/dev/null && echo "possible: $*"; }
    attack() { try touch $1/new; try rm $1/file; try chmod 777 $1/file; try mkdir $1/dir; try sh -c "echo x > $1/file"; }
    attack /ro
    mount -o remount,rw /ro && grep -o ' /ro 9p rw' /proc/mounts
    attack /ro
    umount /ro && mkdir /again && mount -t 9p -o trans=virtio,version=9p2000.L vol0 /again && echo again
    attack /again
    cat /again/file`;
  const { status, stdout, stderr } = await host.shell(
    `mkdir /tmp/kept; echo kept > /tmp/kept/file; chmod 644 /tmp/kept/file
     ${process.execPath} --input-type=module -e "$SCRIPT" "$GUEST"
     status=$?; ls /tmp/kept; stat -c %a /tmp/kept/file; cat /tmp/kept/file; ls ${ROOT}/containers; exit $status`,
    { env: { SCRIPT: script, GUEST: guest } },
  );
  expect(stderr).toBe('');
  // The guest's own view became writable twice; what it wrote was refused by the server.
  expect(stdout).toBe(' /ro 9p rw\nagain\nkept\nfile\n644\nkept\n');
  expect(status).toBe(0);
});
