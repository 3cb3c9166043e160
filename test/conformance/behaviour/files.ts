import type { Difference, Topic } from './table.js';

const COPIED: Difference = {
  why: '`cp` says on standard error what it has copied',
  stderr: /^Successfully copied \S+ to \S+\n$/,
};

/** Files in and out of containers. */
export const files: Topic = {
  name: 'files',
  setup: `t run -d --name up busybox sleep 1000
    t run --name done busybox sh -c "mkdir /d; echo text > /d/f; ln -s f /d/link; rm /bin/vi; chmod 700 /tmp; echo x >> /etc/passwd"`,
  rows: [
    { line: 't cp done:/d/f out', effect: 'cat out', differs: COPIED },
    { line: 't cp done:/d/. out', before: 'mkdir out', effect: 'ls out', differs: COPIED },
    {
      line: 't cp in done:/d/in',
      before: 'echo in > in',
      effect: 't cp done:/d/in - | tar tv --numeric-owner | awk "{print \\$1, \\$2, \\$6}"',
      differs: COPIED,
    },
    {
      line: 't cp dir up:/tmp/new',
      before: 'mkdir dir; echo y > dir/y',
      effect: 't exec up find /tmp/new | sort',
      differs: COPIED,
    },
    {
      line: 't cp done:/nosuch out',
      says: /done:?.*\/nosuch|\/nosuch.* done/,
    },
    { line: 't cp up:/a done:/b', says: /copying between containers is not supported/ },
    { line: 't cp up:/etc/hostname - | tar t' },
    { line: 't diff done | sort' },
    { line: 't export done | tar t | grep -E "^d/" | sort' },
    {
      line: `t commit -a me -m note -c 'CMD ["cat","/d/f"]' -c "ENV X=y" -c "LABEL l=v" done made:2`,
      effect:
        't run --rm made:2; t image inspect -f "{{.Author}} {{.Comment}} {{json .Config.Cmd}} {{json .Config.Env}} {{json .Config.Labels}}" made:2',
    },
  ],
};

/** Named volumes. */
export const volumes: Topic = {
  name: 'volumes',
  rows: [
    { line: 't volume create --label k=v v2', effect: 't volume inspect -f "{{json .Labels}}" v2' },
    {
      line: 't volume create "bad name"',
      says: /includes invalid characters for a local volume name/,
    },
    { line: 't volume ls --filter name=v --format "{{.Name}} {{.Driver}} {{.Scope}}"' },
    {
      line: 't run --rm -v v1:/data busybox sh -c "echo kept > /data/f"',
      effect: 't run --rm -v v1:/data:ro busybox cat /data/f',
    },
    {
      line: 't create --name holder -v v1:/data busybox true',
      effect:
        't inspect -f "{{range .Mounts}}{{.Type}} {{.Name}} {{.Destination}} {{.Driver}} {{.RW}}{{end}}" holder',
    },
    { line: 't volume rm v1', says: /volume is in use - \[/ },
    { line: 't ps -a --filter volume=v1 --format "{{.Names}} {{.Mounts}} {{.LocalVolumes}}"' },
    {
      line: 't volume prune -f',
      before: 't volume create pruned',
      mask: [[/^[0-9a-f]{64}\n/gm, '']],
      effect: 't volume ls -q --filter name=pruned',
      differs: {
        why: '`volume prune` and `system prune --volumes` leave volumes with names alone',
        stdout: 'Total reclaimed space: 0B\n',
        effect: 'pruned\n',
      },
    },
  ],
};
