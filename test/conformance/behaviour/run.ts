import type { Topic } from './table.js';
import { NOT_PID_1 } from './reasons.js';

/** `run`: exit statuses, streams, and what the command finds. */
export const run: Topic = {
  name: 'run',
  setup:
    'mkdir -p host && echo from-host > host/file && echo "A=file" > env && ln -sf "$PWD" /tmp/behaviour/at',
  rows: [
    { line: 't run --rm busybox echo hello' },
    { line: 't run --rm busybox sh -c "exit 42"' },
    {
      line: 't run --rm busybox sh -c "kill -9 \\$\\$; echo alive"',
      differs: { why: NOT_PID_1, status: 137, stdout: '' },
    },
    { line: 't run --rm busybox /etc', says: /"\/etc"/ },
    { line: 't run --rm busybox nosuchcommand', says: /nosuchcommand/ },
    { line: 't run --rm --pull never nosuchimage true', says: /no such image.*nosuchimage/i },
    { line: 't run --rm -w /no/such/dir busybox pwd' },
    { line: 't run --rm -u nosuchuser busybox true', says: /unable to find user nosuchuser/ },
    { line: 't run', says: /requires at least 1 argument/ },
    { line: 't run --nosuchflag busybox', says: /unknown flag: --nosuchflag/ },
    {
      line: 't run --rm --name "bad name" busybox true',
      says: /Invalid container name \(bad name\)/,
    },
    { line: 't run --rm -m 1 busybox true' },
    {
      line: 'A=1 t run --rm -e A -e B=2 -e B=3 -e EMPTY= busybox sh -c "echo $A; env | grep -E \'^(A|B|EMPTY)=\' | sort"',
    },
    {
      line: 't run --rm --env-file env -e C=c busybox sh -c "env | grep -E \'^[A-Z]=\' | sort"',
      before: 'printf "# comment\\n\\nA=file\\nB=with space  \\n" > env',
    },
    {
      line: 't run --rm --env-file env busybox true',
      before: 'printf "A B=1\\n" > env',
      says: /A B/,
    },
    { line: 't run --rm busybox env', mask: [[/^HOSTNAME=.*$/m, 'HOSTNAME=<id>']] },
    {
      line: 't run --rm -u 1000:1001 busybox id',
    },
    { line: 't run --rm -w /tmp/new/dir busybox sh -c "pwd; stat -c %a:%u ."' },
    {
      line: 't run --rm -h myhost busybox sh -c "hostname; cat /etc/hostname; echo \\$HOSTNAME"',
    },
    { line: 't run --rm --add-host db:10.0.0.1 busybox grep db /etc/hosts' },
    { line: 't run --rm --entrypoint /bin/echo busybox a b' },
    {
      line: "t run --rm --tmpfs /scratch:size=1m,mode=700 busybox sh -c \"mount | grep /scratch | cut -d' ' -f1-5; stat -c %a /scratch; df -k /scratch | tail -1 | tr -s ' ' | cut -d' ' -f2\"",
    },
    { line: 't run --rm --read-only --tmpfs /tmp busybox sh -c "touch /tmp/file && ls /tmp"' },
    { line: 't run --rm --ulimit nofile=100:200 busybox sh -c "ulimit -Sn; ulimit -Hn"' },
    { line: 't run --rm --oom-score-adj 300 busybox cat /proc/self/oom_score_adj' },
    { line: 't run --rm --ulimit nosuch=1 busybox true', says: /invalid ulimit type: nosuch/ },
    { line: 't run --rm busybox sh -c "grep CapEff /proc/self/status"' },
    {
      line: 't run --rm --cap-drop ALL --cap-add NET_RAW --cap-add cap_chown busybox sh -c "grep CapEff /proc/self/status"',
    },
    {
      line: 't run --rm -v "$PWD/d":/mnt busybox sh -c "cat /mnt/f; echo new > /mnt/g"',
      before: 'mkdir d; echo old > d/f',
      effect: 'cat d/g',
    },
    { line: 't run --rm -v /a:/b:nosuchmode busybox true', says: /invalid mode: nosuchmode/ },
    {
      line: 't run --rm --mount type=bind,source=/no/such,target=/mnt busybox true',
      says: /bind source path does not exist: \/no\/such/,
    },
    {
      line: "t run --rm --mount type=tmpfs,target=/mnt,tmpfs-size=64k busybox sh -c \"df -k /mnt | tail -1 | tr -s ' ' | cut -d' ' -f2\"",
    },
    {
      line: 't run --rm --cidfile cid busybox true',
      before: 'touch cid',
      says: /file exists|Container ID file found/i,
    },
    { line: 't run --rm --stop-signal NOSUCH busybox true', says: /invalid signal: NOSUCH/i },
    { line: 't run -it --rm busybox true', says: /the input device is not a TTY/ },
    { line: 't run --rm --sysctl net.ipv4.ip_forward=1 busybox cat /proc/sys/net/ipv4/ip_forward' },
    { line: 't run --rm -a stdout busybox sh -c "echo out; echo err >&2"' },
    { line: 'echo in | t run --rm -a stdin -a stdout -i busybox cat' },
    {
      line: 't run --rm -a nosuch busybox true',
      says: /valid streams are STDIN, STDOUT and STDERR/,
    },
    { line: 't run -d -a stdout busybox true', says: /Conflicting options: -a and -d/ },
    { line: 't run --rm busybox -c true' },
    { line: 't run --rm --network none busybox ls /sys/class/net' },
    {
      line: 't run --rm --dns 10.0.0.53 --dns-search example.org --dns-option ndots:2 busybox cat /etc/resolv.conf',
      differs: {
        why: 'containers have loopback and no other network yet',
        status: 125,
        stdout: '',
        stderr: /--dns is not supported/,
      },
    },
    {
      line: 't run --rm --domainname example.org -h web busybox sh -c "cat /proc/sys/kernel/domainname; hostname"',
    },
    {
      line: 't run --rm --security-opt no-new-privileges busybox grep NoNewPrivs /proc/self/status',
    },
    {
      line: 't run --rm --privileged busybox true',
      differs: {
        why: 'what is inside may not get host devices',
        status: 125,
        stderr: /--privileged is not supported/,
      },
    },
    {
      line: 't run --rm --volumes-from from busybox cat /data/f',
      before:
        't volume create vf >/dev/null; t run --name from -v vf:/data busybox sh -c "echo shared > /data/f"',
    },
  ],
};

/** Bytes in, bytes out. */
export const streams: Topic = {
  name: 'streams',
  rows: [
    { line: 'echo text | t run --rm -i busybox tr a-z A-Z' },
    { line: 'echo text | t run --rm busybox cat' },
    { line: 't run --rm busybox sh -c "echo out; echo err >&2; exit 3"', says: /^err\n$/ },
    { line: 't run --rm busybox sh -c "head -c 3000000 /dev/zero" | md5sum' },
    { line: 't run --rm busybox printf "\\\\000\\\\377\\\\n" | od -An -tx1' },
    { line: 't run --rm busybox yes | head -1', says: /.*/ },
    {
      line: 't logs big | head -1',
      before: 't run --name big busybox seq 100000 > /dev/null',
      says: /^$/,
    },
    {
      line: 't run --rm -i busybox sh -c "read a; read b; echo $? [\\$a] [\\$b]" < in',
      before: 'printf "one\\ntwo" > in',
    },
    {
      line: 't run --rm busybox sh -c "echo out > /dev/stdout; echo err > /dev/stderr"',
      says: /^err\n$/,
    },
  ],
};
