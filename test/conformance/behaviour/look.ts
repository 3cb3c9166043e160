import type { Topic } from './table.js';

/** Lists and details. */
export const lists: Topic = {
  name: 'lists',
  setup: `t run -d --name up --label kind=a --label only busybox sleep 1000
    t run --name done --label kind=b busybox sh -c "exit 3"
    t create --name idle busybox echo "a long command line that is cut"; true`,
  rows: [
    { line: 't ps -a' },
    { line: 't ps -a --format "{{.Label \\"kind\\"}}"' },
    {
      line: 't ps -a --format "{{.Mounts}}|{{.Networks}}|{{.LocalVolumes}}|{{.CreatedAt}}"',
      differs: {
        why: '`ps` shows `none` for networks',
        stdout: '|none|0|<time>\n|none|0|<time>\n|none|0|<time>\n',
      },
    },
    { line: 't ps --format "{{.Names"', says: /template parsing error|unclosed action/ },
    { line: 't ps --format "{{if eq .State \\"running\\"}}yes{{else}}no{{end}}" -a' },
    {
      line: 't ps --format "{{json .}}" | tr , "\\n" | cut -d: -f1 | tr -d "{}" | grep "^.[A-Z]" | sort',
    },
    { line: 't ps -a --filter name=^/done$ --format "{{.Names}}"' },
    { line: 't ps -a --filter exited=x' },
    { line: 't ps --filter nosuch', says: /bad format of filter/ },
    { line: 't ps -l --format "{{.Names}}"' },
    {
      line: 't ps -as --format "{{.Names}} {{.Size}}"',
      differs: { why: 'The size of an image', stdout: /^idle 0B \(virtual 2\.\d+MB\)\ndone 0B / },
    },
    { line: 't ps extra', says: /accepts no arguments/ },
    { line: 't inspect --format "{{.Name}} {{.Path}} {{.Args}}" idle' },
    {
      line: 't inspect --format "{{json .Config.Cmd}} {{json .Config.Entrypoint}} {{json .Config.Labels}}" up',
    },
    {
      line: 't inspect --format "{{.Config.Image}} {{.Config.Hostname}} {{.Config.User}} {{.Config.WorkingDir}}" up',
    },
    {
      line: 't inspect -f "{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.AutoRemove}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.ShmSize}} {{.HostConfig.LogConfig.Type}}" up',
    },
    { line: 't inspect -f "{{range .Config.Env}}{{println .}}{{end}}" up' },
    { line: 't inspect -f "{{index .Config.Labels \\"kind\\"}}" up done' },
    { line: 't inspect -f "{{with .State}}{{.Status}}{{end}} {{len .Args}}" up' },
    {
      line: 't inspect -f "{{.NoSuch}}" up',
      says: /NoSuch/,
      differs: { why: 'What fails prints nothing', stdout: '' },
    },
    { line: 't inspect --type image up', says: /No such image: up/ },
    { line: 't inspect -s -f "{{.SizeRw}}" idle' },
    { line: 't inspect up nosuch -f "{{.Name}}"', says: /No such object: nosuch/ },
  ],
};
/** The command line itself. */
export const usage: Topic = {
  name: 'usage',
  rows: [
    { line: 't nosuchcommand', says: /'nosuchcommand' is not a docker command|nosuchcommand/ },
    { line: 't --nosuchflag', says: /unknown flag: --nosuchflag/ },
    { line: 't ps --nosuchflag', says: /unknown flag: --nosuchflag/ },
    { line: 't ps --last=x', says: /invalid argument "x" for "-n, --last" flag/ },
  ],
};
