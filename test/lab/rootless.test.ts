// What an ordinary user can do, who may open /dev/kvm: everything that root can. Their home is on ext4, because overlays want user
// xattrs, which tmpfs has from Linux 6.6 on.
import { afterAll, beforeAll, expect, test } from 'vitest';

import { busyboxImage } from '../../scripts/images.mjs';
import { CLI, Host, PROJECT, startLab, type Outcome, type Session } from './support.js';

const IMAGE = 'busybox';

let host: Host;

/** Runs a script as a user, at home; `clearvm` is the command line. What it prints, errors in it. */
async function as(user: string, script: string): Promise<string[]> {
  const { stdout } = await runAs(user, `{ ${script}\n} 2>&1`);
  return stdout.trimEnd().split('\n');
}

function runAs(user: string, script: string): Promise<Outcome> {
  return host.run([
    'runuser',
    '-u',
    user,
    '--',
    'env',
    `HOME=/home/${user}`,
    'bash',
    '-c',
    `cd; ${script}`,
  ]);
}

beforeAll(async () => {
  host = new Host(await startLab());
  const made = await busyboxImage();
  // The lab's own /root, where images are kept on the build machine, is closed to ordinary users.
  const { status, stderr } = await host.shell(`set -e
    mkdir -p /srv/images; cp ${made.archive} /srv/images/busybox.tar; chmod 755 /srv/images; chmod 644 /srv/images/*
    modprobe loop; modprobe ext4; truncate -s 1G /tmp/home; mkfs.ext4 -q /tmp/home; mkdir -p /home; mount -o loop /tmp/home /home
    printf '#!/bin/sh\\nexec ${process.execPath} -- ${CLI} "$@"\\n' > /usr/local/bin/clearvm; chmod 755 /usr/local/bin/clearvm
    sed -i '/^\\(alice\\|bob\\|carol\\|dave\\):/d' /etc/subuid /etc/subgid
    getent group kvm > /dev/null || groupadd kvm; chgrp kvm /dev/kvm; chmod 660 /dev/kvm
    uid=2001; for user in alice bob carol dave; do
      useradd -m -d /home/$user -u $uid -s /bin/bash $user; chmod 700 /home/$user; uid=$((uid + 1))
      sed -i "/^$user:/d" /etc/subuid /etc/subgid
    done
    for user in alice bob carol; do usermod -aG kvm $user; done
    for file in /etc/subuid /etc/subgid; do echo alice:200000:65536 >> $file; echo carol:300000:65536 >> $file; done
    : several owners, a set-id program, a device, a capability
    mkdir -p /tmp/tree; cd /tmp/tree; mkdir -p bin etc data dev lower/dir; cp /usr/bin/busybox bin/busybox; for name in sh ls stat id cat touch chown chmod mkdir rm sleep rmdir; do ln -s busybox bin/$name; done
    echo 'root:x:0:0::/:/bin/sh' > etc/passwd; echo a > data/a; echo b > data/b; echo c > lower/dir/old
    chown 33:34 data/a; chown 65534:65534 data; chmod 4755 bin/busybox; chown 12:13 data/b; chmod 2750 data/b; setcap cap_net_raw=ep data/a
    mknod dev/null c 1 3; mknod data/pipe p
    tar --numeric-owner --xattrs --xattrs-include=security.capability -cf /srv/images/owners.tar .`);
  if (status !== 0) throw new Error(stderr);
  const loaded = await as(
    'alice',
    `clearvm load -q -i /srv/images/busybox.tar --name ${IMAGE}; clearvm import /srv/images/owners.tar owners`,
  );
  expect(loaded).toEqual(['Loaded image: busybox:latest', expect.stringMatching(/^sha256:/)]);
});
afterAll(() => host?.close());

test('run: root inside, exit statuses, streams, a signal', async () => {
  expect(
    await as(
      'alice',
      `clearvm run --rm ${IMAGE} sh -c 'id -u; id -g'; echo hello | clearvm run --rm -i ${IMAGE} cat
      clearvm run --rm -u 7:8 ${IMAGE} sh -c 'id -u; id -g'
      clearvm run --rm ${IMAGE} sh -c 'exit 3'; echo $?
      clearvm run --rm ${IMAGE} sh -c 'kill -9 $$'; echo $?
      clearvm run --rm ${IMAGE} /etc > /dev/null 2>&1; echo $?
      clearvm run --rm ${IMAGE} nothing > /dev/null 2>&1; echo $?
      clearvm run --rm -w relative ${IMAGE} true > /dev/null 2>&1; echo $?
      clearvm ps -aq; pgrep -xc clearvm-pause`,
    ),
  ).toEqual(['0', '0', 'hello', '7', '8', '3', '137', '126', '127', '125', '1']);
});

test('an image keeps its owners, set-id bits and capabilities, and goes without its devices', async () => {
  expect(
    await as(
      'alice',
      `clearvm run --rm owners sh -c 'cd /data; stat -c "%n %u:%g %a %F" . a b pipe /bin/busybox'
      clearvm create --name caps owners sh > /dev/null; clearvm export caps | grep -ac SCHILY.xattr.security.capability
      clearvm rm caps; find ~/.local/share/clearvm/images/layers '(' -type c -o -type b ')' | wc -l`,
    ),
  ).toEqual([
    '. 65534:65534 755 directory',
    'a 33:34 644 regular file',
    'b 12:13 2750 regular file',
    'pipe 0:0 644 fifo',
    '/bin/busybox 0:0 4755 regular file',
    ...['1', 'caps', '0'],
  ]);
});

test('a kept container: owners, whiteouts and opaque directories last over restarts and go into an image', async () => {
  expect(
    await as(
      'alice',
      `clearvm run -d --name kept owners sh -c 'echo up; sleep 10000' > /dev/null
      clearvm exec kept sh -c 'rm -r /lower/dir; mkdir /lower/dir; echo new > /lower/dir/new; rm /data/b
        touch /data/mine; chown 1000:50 /data/mine; chmod 6711 /data/mine; chown 5:6 /data/a
        chown 70000 /data/mine; echo $?'
      look='cd /data; stat -c "%n %u:%g %a" a mine; ls /data /lower/dir'
      clearvm exec kept sh -c "$look"; clearvm stop -t 1 kept; clearvm start kept; clearvm restart -t 1 kept
      clearvm exec kept sh -c "$look"; until [ "$(clearvm logs kept | grep -c up)" = 3 ]; do sleep 0.2; done
      clearvm pause kept; clearvm unpause kept; clearvm top kept | grep -c 'sleep 10000'; clearvm stats --no-stream --format '{{.Name}}' kept
      clearvm inspect -f '{{.State.Status}}' kept; clearvm events --since 1h --until 0s --filter container=kept --format '{{.Action}}' | grep -xE '[a-z]+' | sort -u | tr '\\n' ,; echo
      clearvm diff kept | sort | tr '\\n' ,; echo; clearvm commit kept changed > /dev/null; clearvm rm -f kept
      clearvm run --rm changed sh -c "$look"
      clearvm save changed | tar -t > /dev/null && echo saved`,
    ),
  ).toEqual([
    ...['chown: /data/mine: Invalid argument', '1'],
    ...['a 5:6 644', 'mine 1000:50 6711', '/data:', 'a', 'mine', 'pipe', '', '/lower/dir:', 'new'],
    ...['kept', 'kept', 'kept'],
    ...['a 5:6 644', 'mine 1000:50 6711', '/data:', 'a', 'mine', 'pipe', '', '/lower/dir:', 'new'],
    ...['kept', 'kept', '1', 'kept', 'running'],
    'create,die,pause,restart,start,stop,unpause,',
    'A /data/mine,A /lower/dir/new,C /data,C /data/a,C /lower,C /lower/dir,D /data/b,D /lower/dir/old,',
    'kept',
    ...['a 5:6 644', 'mine 1000:50 6711', '/data:', 'a', 'mine', 'pipe', '', '/lower/dir:', 'new'],
    'saved',
  ]);
});

test('cp to and from a running container and one that does not run; export', async () => {
  expect(
    await as(
      'alice',
      `clearvm run -d --name live ${IMAGE} sleep 10000 > /dev/null; mkdir -p from/sub; echo one > from/one; chmod 600 from/one
      clearvm cp -q from live:/to; clearvm exec live stat -c '%n %u:%g %a' /to/one
      clearvm exec live sh -c 'echo in > /in; chown 9:9 /in'; clearvm cp -q live:/in .; cat in; stat -c %U in
      clearvm stop -t 1 live; clearvm cp -q from/one live:/late; clearvm cp -q live:/to/one again; cat again
      clearvm start live; clearvm exec live cat /late; clearvm export live | tar -tv --numeric-owner | grep -E ' in$' | awk '{ print $2 }'
      pkill -u alice -x clearvm-pause; clearvm exec live cat /late; clearvm cp -q live:/late .; echo $?
      clearvm restart -t 1 live; clearvm cp -q live:/late .; echo $?; clearvm rm -f live`,
    ),
  ).toEqual([
    ...['/to/one 0:0 600', 'in', 'alice', 'live', 'one', 'live', 'one', '9/9', 'one'],
    expect.stringContaining('its user namespace has been given up: restart it'),
    ...['1', 'live', '0', 'live'],
  ]);
});

test("volumes: root of the guest is the user outside, other users' files stay closed", async () => {
  await host.shell(
    `mkdir -p /srv/closed /srv/open; echo secret > /srv/closed/file; chmod 700 /srv/closed; echo open > /srv/open/file; chown bob /srv/open/file`,
  );
  expect(
    await as(
      'alice',
      `mkdir dir; echo mine > dir/mine
      clearvm run --rm -v ~/dir:/v ${IMAGE} sh -c 'cat /v/mine; stat -c %u:%g /v /v/mine; echo x > /v/root; touch /v/other; chown 12:34 /v/other'
      stat -c '%n %u:%g' dir/mine dir/root dir/other
      clearvm run --rm -v ~/dir:/v:ro ${IMAGE} sh -c 'exec 2>&1; touch /v/none; echo $?'
      clearvm run --rm -v /srv/closed:/v ${IMAGE} cat /v/file; echo $?
      clearvm run --rm -v /srv/open:/v ${IMAGE} sh -c 'cat /v/file; stat -c %u /v/file; exec 2>&1; chown 0 /v/file; echo y > /v/file; echo $?'
      clearvm run --rm -v named:/n ${IMAGE} sh -c 'touch /n/x; chown 3:4 /n/x'; clearvm run --rm -v named:/n ${IMAGE} stat -c %u:%g /n/x
      clearvm volume rm named; clearvm volume ls -q`,
    ),
  ).toEqual([
    ...[
      'mine',
      '0:0',
      '0:0',
      'dir/mine 2001:2001',
      'dir/root 2001:2001',
      'dir/other 200011:200033',
    ],
    ...['touch: /v/none: Read-only file system', '1'],
    expect.stringMatching(/denied|cannot/i),
    expect.stringMatching(/^[1-9]/),
    ...['open', '65534', expect.stringMatching(/chown: .*denied|not permitted/i)],
    ...[expect.stringMatching(/create \/v\/file: /), '1', '3:4', 'named'],
  ]);
});

test('snapshots, forks and templates', async () => {
  expect(
    await as(
      'alice',
      `clearvm run -d --name origin ${IMAGE} sh -c 'echo kept > /file; chown 21:22 /file; i=0; while :; do i=$((i + 1)); echo $i > /count; sleep 0.2; done' > /dev/null
      until clearvm exec origin test -s /count; do sleep 0.2; done
      clearvm fork --count 2 origin | wc -l
      clearvm snapshot create origin snap > /dev/null; clearvm snapshot restore --name back snap > /dev/null
      clearvm exec back sh -c 'cat /file; stat -c %u:%g /file'
      clearvm rm -f $(clearvm ps -aq) | wc -l; clearvm snapshot rm snap > /dev/null; echo $?
      clearvm run --rm --timings ${IMAGE} true 2>&1 | grep -c restored
      ls ~/.local/share/clearvm/templates | grep -c 'vm$' | sed 's/[1-9]/some/'`,
    ),
  ).toEqual(['2', 'kept', '21:22', '4', '0', '1', 'some']);
});

test('a client of --rm that is killed leaves nothing, nor does rm', async () => {
  expect(
    await as(
      'alice',
      `clearvm run --rm --name brief ${IMAGE} sh -c 'touch /x; chown 77:77 /x; echo up; sleep 10000' > out & client=$!
      until grep -qs up out; do sleep 0.2; done; kill -9 $client; wait $client 2> /dev/null
      until [ -z "$(pgrep -x clearvm-vmm)" ]; do sleep 0.2; done
      clearvm run --name left ${IMAGE} sh -c 'mkdir /d; touch /d/x; chown -R 78:78 /d; chmod 700 /d'; clearvm rm left
      clearvm ps -aq; ls ~/.local/share/clearvm/containers ~/.local/share/clearvm/names
      find ~/.local/share/clearvm/containers -uid 200077; pgrep -u alice -a clearvm-[vm]`,
    ),
  ).toEqual([
    'left',
    '/home/alice/.local/share/clearvm/containers:',
    '',
    '/home/alice/.local/share/clearvm/names:',
  ]);
});

test.each([
  ['of their own', ['runuser', '-u', 'alice', '--'], []],
  ['of whoever became this user', [], ['runuser', '-u', 'alice', '--']],
])('a terminal %s: sizes, Ctrl-C, the exit status', async (_, before, behind) => {
  const { stdout, stderr } = await host.run([
    ...before,
    ...['python3', `${PROJECT}/test/lab/drivers/terminal.py`],
    JSON.stringify([
      ['wait', '# '],
      ['type', 'tty; stty size\n'],
      ['wait', '/dev/pts/0\r\n24 80\r\n'],
      ['size', 40, 133],
      ['type', 'until [ "$(stty size)" = "40 133" ]; do sleep 0.1; done; echo resi""zed\n'],
      ['wait', 'resized'],
      ['wait', '# '],
      // One process: between two of them the terminal's signals find nobody.
      ['type', 'sh -c \'echo asl""eep; exec sleep 1000\'\n'],
      ['wait', 'asleep\r\n'],
      ['type', '\x03'],
      ['wait', '# '],
      ['type', 'exit 9\n'],
      ['end'],
    ]),
    ...behind,
    ...['env', 'HOME=/home/alice', '/usr/local/bin/clearvm', 'run', '--rm', '-it', IMAGE],
  ]);
  expect({ stderr, ...(JSON.parse(stdout) as Session) }).toMatchObject({
    ...{ stderr: '', failure: null, status: 9, restored: true },
  });
});

test('what needs the host is refused by name', async () => {
  const refused = await as(
    'alice',
    `for option in --device=/dev/kvm --privileged --network=bridge --pid=host; do clearvm run --rm $option ${IMAGE} true; echo $?; done`,
  );
  expect(refused.filter((line) => line === '125')).toHaveLength(4);
  for (const option of ['device', 'privileged', 'network', 'pid']) {
    expect(refused.join('\n')).toContain(`--${option}`);
  }
});

test('first commands at the same time make one namespace', async () => {
  expect(
    await as(
      'carol',
      `for i in 1 2 3 4 5; do clearvm images -q & done; wait; pgrep -u carol -xc clearvm-pause`,
    ),
  ).toEqual(['1']);
});

test("another user's containers are out of reach, and a directory that is not one's own is not used", async () => {
  const lines = await as(
    'carol',
    `clearvm ps; clearvm --root /home/alice/.local/share/clearvm images; echo $?
    XDG_RUNTIME_DIR=/tmp; mkdir -p /tmp/mine; chmod 777 /tmp/mine; ln -s /tmp/mine /tmp/clearvm; XDG_RUNTIME_DIR=/tmp clearvm ps; echo $?
    rm /tmp/clearvm; mkdir -m 777 /tmp/mine/clearvm; chmod 777 /tmp/mine/clearvm; XDG_RUNTIME_DIR=/tmp/mine clearvm ps; echo $?`,
  );
  expect(lines[0]).toMatch(/^CONTAINER ID/);
  expect(lines.slice(1)).toEqual([
    expect.stringMatching(/permission denied/i),
    expect.stringMatching(/^[1-9]/),
    expect.stringContaining('cannot open the runtime directory /tmp/clearvm'),
    '125',
    expect.stringContaining('does not belong to this user alone'),
    '125',
  ]);
});

test('without ids of their own, root is the only one, and that is said once', async () => {
  const lines = await as(
    'bob',
    `clearvm load -q -i /srv/images/busybox.tar --name ${IMAGE}; clearvm run --rm ${IMAGE} sh -c 'id -u; touch /x; chown 5 /x'
    clearvm import /srv/images/owners.tar owners; echo $?; clearvm images -q | wc -l; clearvm doctor | grep -A1 'ids of'`,
  );
  expect(lines).toEqual([
    "clearvm: warning: no subuid range for user bob in /etc/subuid: add one with usermod --add-subuids 100000-165535; then end the process clearvm-pause. Until then images can have files of root's only",
    ...['Loaded image: busybox:latest', '0', 'chown: /x: Invalid argument'],
    expect.stringMatching(/Cannot change ownership.*this user has no such id to give away/),
    ...['125', '1'],
    expect.stringContaining('containers have 1 user and group ids of 65536'),
    expect.stringContaining('usermod --add-subuids'),
  ]);
});

test('where user namespaces are forbidden, commands and doctor say what to do; so does doctor of /dev/kvm', async () => {
  const lines = await as(
    'dave',
    `clearvm doctor | grep -A1 kvm.; echo; clearvm doctor | grep -c ERROR`,
  );
  expect(lines.join('\n')).toMatch(
    /ERROR +\/dev\/kvm may not be opened by this user\n.*usermod -aG kvm/,
  );
  await host.shell('pkill -u dave -x clearvm-pause; sysctl -qw user.max_user_namespaces=0');
  try {
    expect(
      await as(
        'dave',
        `clearvm ps; echo $?; clearvm doctor | grep -A1 'user namespace'; clearvm --version > /dev/null; echo $?`,
      ),
    ).toEqual([
      expect.stringContaining(
        'this user may not make user namespaces (user.max_user_namespaces is too low)',
      ),
      '125',
      expect.stringMatching(/^ERROR +no user namespace can be made/),
      expect.stringContaining('sysctl -w user.max_user_namespaces'),
      '0',
    ]);
  } finally {
    await host.shell('sysctl -qw user.max_user_namespaces=10000');
  }
});

test('doctor finds nothing wrong for a user who has everything', async () => {
  const { status, stdout } = await runAs('alice', 'clearvm doctor');
  expect({ status, errors: stdout.match(/^ERROR.*/gm) }).toEqual({ status: 0, errors: null });
  expect(stdout).toContain('containers have 65537 user and group ids');
});

test('the library goes into the namespace by itself', async () => {
  const program = `
    import { Engine, enterUserNamespace } from '${PROJECT}/dist/index.js';
    if (process.argv[2] === 'outside') {
      await new Engine().run('${IMAGE}').catch((error) => console.log(error.code));
    } else {
      enterUserNamespace();
      const container = await new Engine().run('${IMAGE}', { cmd: ['sh', '-c', 'id -u; exit 4'], stdout: 'inherit' });
      console.log((await container.wait()).exitCode, process.argv[2]);
    }`;
  expect(
    await as(
      'alice',
      `cat > program.mjs <<'EOF'\n${program}\nEOF\n node program.mjs outside; node program.mjs 'a b'`,
    ),
  ).toEqual(['ERR_USER_NAMESPACE', '0', '4 a b']);
});
