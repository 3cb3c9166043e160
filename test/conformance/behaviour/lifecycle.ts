import type { Topic } from './table.js';

const state = (name: string): string =>
  `t inspect --format "{{.State.Status}} {{.State.ExitCode}}" ${name}`;

/** From `create` to `rm`. */
export const lifecycle: Topic = {
  name: 'lifecycle',
  setup:
    't create --name idle busybox sleep 1000; t run -d --name up busybox sleep 1000; t run --name done busybox sh -c "exit 3"; true',
  rows: [
    { line: 't create --name made busybox echo made', effect: state('made') },
    {
      line: 't create --name made busybox true',
      says: /Conflict\. The container name "\/made" is already in use by container/,
    },
    { line: 't start -a made', effect: state('made') },
    { line: 't start nosuch', says: /No such container: nosuch/ },
    { line: 't start -a done', effect: state('done') },
    { line: 'echo in | t start -ai catter', before: 't create -i --name catter busybox cat' },
    {
      line: 't start -a idle made',
      says: /you cannot start and attach multiple containers at once/i,
    },
    {
      line: 't start broken',
      before: 't create --name broken busybox nosuchcommand',
      says: /nosuchcommand/,
      effect: state('broken'),
    },
    { line: 't kill done', says: /is not running/ },
    {
      line: 't kill -s TERM trap',
      before:
        't run -d --name trap busybox sh -c "trap \'echo term; exit 7\' TERM; echo ready; while :; do sleep 0.1; done"; until t logs trap | grep -q ready; do :; done',
      effect: `t wait trap; t logs trap; ${state('trap')}`,
    },
    {
      line: 't kill -s 9 k9',
      before: 't run -d --name k9 busybox sleep 1000',
      effect: `t wait k9; ${state('k9')}`,
    },
    {
      line: 't stop -t 1 s1',
      before:
        't run -d --name s1 busybox sh -c "trap : TERM; echo ready; while :; do sleep 1; done"; until t logs s1 | grep -q ready; do :; done',
      effect: state('s1'),
    },
    { line: 't restart -t 0 up', effect: state('up') },
    { line: 't restart -t 0 done', effect: `t wait done; ${state('done')}` },
    { line: 't pause up', effect: state('up') },
    { line: 't pause up', says: /is already paused/ },
    { line: 't exec up true', says: /is paused, unpause the container before exec/ },
    { line: 't unpause up', effect: state('up') },
    { line: 't unpause up', says: /is not paused/ },
    { line: 't wait done made' },
    {
      line: 't rm up',
      says: /You cannot remove a running container .* Stop the container before attempting removal or force remove/,
    },
    { line: 't rm k9 s1', effect: 't ps -a --format "{{.Names}}" | grep -xE "k9|s1"' },
    { line: 't rm -f up', effect: 't ps -aq --filter name=^/up$' },
    { line: 't rename made renamed', effect: 't ps -a --filter name=rename --format "{{.Names}}"' },
    { line: 't rename renamed done', says: /already in use/ },
    {
      line: 't update --restart always idle',
      effect: 't inspect --format "{{.HostConfig.RestartPolicy.Name}}" idle',
    },
    { line: 't port idle 80', says: /No public port '80\/tcp' published for idle/ },
    { line: 't attach done', says: /You cannot attach to a stopped container, start it first/ },
    {
      line: 't container prune -f',
      mask: [
        [/[\d.]+k?M?B/, '<size>'],
        [/(<ID>\n)+|([0-9a-f]{64}\n)+/, '<IDs>\n'],
      ],
      effect: 't ps -a --format "{{.Names}}"',
    },
    { line: 'echo n | t container prune' },
    {
      line: 't system prune -f',
      before: 't create --name gone busybox true',
      mask: [[/[0-9a-f]{64}/, '<ID>']],
      effect: 't ps -a --format "{{.Names}}"',
    },
  ],
};

/** What containers print, later. */
export const logs: Topic = {
  name: 'logs',
  setup:
    't run --name two busybox sh -c "echo one; echo err >&2; echo two; printf last"; t run -d --name up busybox sh -c "echo ready; sleep 1000"; t create --name fresh busybox true; until t logs up | grep -q ready; do :; done',
  rows: [
    { line: 't logs two', says: /^err\n$/ },
    { line: 't logs --tail 1 two', says: /^$/ },
    {
      line: 't logs --tail x two',
      differs: {
        why: 'docker takes what is neither for all',
        status: 1,
        stdout: '',
        stderr: /a number or all/,
      },
    },
    { line: 't logs -t two 2>/dev/null' },
    { line: 't logs fresh' },
    { line: 't logs nosuch', says: /No such container: nosuch/ },
    { line: 't logs --since potato two' },
    {
      line: 't logs nolog',
      before: 't run --name nolog --log-driver none busybox echo x',
      says: /does not support reading/,
    },
    {
      line: 't run --name lc --log-opt nosuch=1 busybox true',
      says: /unknown log opt 'nosuch' for json-file log driver/,
    },
  ],
};

/** Further processes. */
export const exec: Topic = {
  name: 'exec',
  setup:
    't run -d --name up -e FROM=run -w /tmp busybox sleep 1000; t create --name idle busybox true; t run -d --name other -u 7 busybox sleep 1000',
  rows: [
    { line: 't exec up sh -c "exit 9"' },
    {
      line: 't exec up nosuchcommand',
      differs: {
        why: 'A command that is not there is 127',
        status: 127,
        stdout: '',
        stderr: /nosuchcommand/,
      },
    },
    { line: 't exec up sh -c "kill -9 \\$\\$"' },
    { line: 't exec nosuch true', says: /No such container: nosuch/ },
    { line: 't exec idle true', says: /Container .* is not running/ },
    { line: 't exec up', says: /requires at least 2 arguments/ },
    { line: 'echo in | t exec -i up cat' },
    { line: 't exec -e A=1 -w /etc up sh -c "echo \\$A \\$FROM; pwd"' },
    { line: 't exec -u 1000:1001 up id' },
    { line: 't exec -u 0 other sh -c "id -u; grep CapEff /proc/self/status"' },
    {
      line: 't exec --privileged up sh -c "echo ok"',
      differs: {
        why: 'not `--privileged`',
        status: 125,
        stdout: '',
        stderr: /--privileged is not supported/,
      },
    },
    {
      line: 't exec -d up sh -c "echo detached > /tmp/d"',
      effect: 'until t exec up grep . /tmp/d 2>/dev/null; do :; done',
    },
    { line: 't exec -t up sh -c "test -t 1 && echo tty"' },
    { line: 't exec -it up true', says: /the input device is not a TTY/ },
    { line: 't exec up sh -c "echo out; echo err >&2"', says: /^err\n$/ },
    { line: 't top up', mask: [[/root +\d+ +\d+ .* sleep/, 'root sleep']] },
    { line: 't top idle', says: /is not running/ },
    { line: 't stats --no-stream --format "{{.Name}} {{.Container}} {{.NetIO}}" up' },
  ],
};
