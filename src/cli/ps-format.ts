/** How `ps` writes a container, as docker does. */
import type { ContainerSummary } from '../engine/list.js';
import type { Fields, Table } from './template.js';

const SHORT_ID = 12;
const COMMAND_LENGTH = 20;
const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** "About an hour" of milliseconds: docker's units.HumanDuration. */
export function formatDuration(ms: number): string {
  const seconds = Math.floor(ms / 1000);
  const hours = Math.floor(seconds / HOUR + 0.5);
  const days = Math.floor(hours / 24);
  if (seconds < 1) return 'Less than a second';
  if (seconds === 1) return '1 second';
  if (seconds < MINUTE) return `${seconds} seconds`;
  if (seconds < 2 * MINUTE) return 'About a minute';
  if (seconds < HOUR) return `${Math.floor(seconds / MINUTE)} minutes`;
  if (hours === 1) return 'About an hour';
  if (hours < 48) return `${hours} hours`;
  if (hours < 24 * 14) return `${days} days`;
  if (hours < 24 * 60) return `${Math.floor(days / 7)} weeks`;
  if (hours < 24 * 365 * 2) return `${Math.floor(days / 30)} months`;
  return `${Math.floor(seconds / DAY / 365)} years`;
}

/** "Up 5 minutes", "Exited (0) 3 hours ago", ... */
export function formatStatus({ state }: ContainerSummary, now: number): string {
  const since = (time: string): string => formatDuration(now - Date.parse(time));
  switch (state.status) {
    case 'created':
      return 'Created';
    case 'running':
      return `Up ${since(state.startedAt)}${formatHealth(state.health?.Status)}`;
    case 'paused':
      return `Up ${since(state.startedAt)} (Paused)`;
    case 'restarting':
      return `Restarting (${state.exitCode}) ${since(state.finishedAt)} ago`;
    case 'exited':
      return `Exited (${state.exitCode}) ${since(state.finishedAt)} ago`;
  }
}

function formatHealth(status: string | undefined): string {
  if (status === undefined) return '';
  return status === 'starting' ? ' (health: starting)' : ` (${status})`;
}

/** An argument as docker shows it: in quotes where it has a blank. */
function quote(argument: string): string {
  return argument.includes(' ') ? `'${argument}'` : argument;
}

/** The command in quotes, cut as docker cuts it. */
function formatCommand(args: readonly string[], whole: boolean): string {
  const [path = '', ...rest] = args;
  const text = [path, ...rest.map(quote)].join(' ');
  const cut =
    whole || text.length <= COMMAND_LENGTH ? text : `${text.slice(0, COMMAND_LENGTH - 1)}…`;
  return JSON.stringify(cut);
}

/** "2026-01-31 12:00:00 +0000 UTC" of an RFC 3339 time, in this host's zone but called by its offset. */
function formatTime(time: string): string {
  return `${time.slice(0, 19).replace('T', ' ')} +0000 UTC`;
}

/** What `--format` may name. `size`: of the writable layer, where it was asked for. */
export function psFields(
  container: ContainerSummary,
  options: { whole: boolean; now: number; size?: string },
): Fields {
  const { id, image, args, created, name, labels, mounts, state } = container;
  const { now, whole } = options;
  return {
    Command: formatCommand(args, whole),
    CreatedAt: formatTime(created),
    ID: whole ? id : id.slice(0, SHORT_ID),
    Image: image.reference,
    Label: (label: string) => labels[label] ?? '',
    Labels: Object.entries(labels)
      .map(([label, value]) => `${label}=${value}`)
      .join(','),
    LocalVolumes: String(mounts.filter(({ type }) => type === 'volume').length),
    Mounts: mounts.map((mount) => mount.name ?? mount.source).join(','),
    Names: name,
    Networks: 'none',
    Ports: '',
    RunningFor: `${formatDuration(now - Date.parse(created))} ago`,
    Size: options.size ?? '0B',
    State: state.status,
    Status: formatStatus(container, now),
  };
}

/** Headings of the columns that `table` templates may have. */
export const PS_HEADINGS: Readonly<Record<string, string>> = {
  ID: 'CONTAINER ID',
  Image: 'IMAGE',
  Command: 'COMMAND',
  RunningFor: 'CREATED',
  CreatedAt: 'CREATED AT',
  Status: 'STATUS',
  State: 'STATE',
  Ports: 'PORTS',
  Names: 'NAMES',
  Size: 'SIZE',
  Labels: 'LABELS',
  Mounts: 'MOUNTS',
  LocalVolumes: 'LOCAL VOLUMES',
  Networks: 'NETWORKS',
};

const COLUMNS = ['ID', 'Image', 'Command', 'RunningFor', 'Status', 'Ports', 'Names'];

/** How `ps` shows its rows. `size`: with the column for it. */
export function psTable(size: boolean): Table {
  const columns = size ? [...COLUMNS, 'Size'] : COLUMNS;
  return { columns, headings: PS_HEADINGS, command: 'ps' };
}
