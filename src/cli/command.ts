/** What a command is. Each lies in a file of its own, loaded only when it is asked for. */
import type { Engine } from '../engine/engine.js';
import type { OptionTable, ParsedArguments } from './options.js';

export interface CommandContext {
  /** --root, where it was given. */
  root: string | undefined;
  /** Made at its first use: commands that need none do not load it. */
  engine(): Promise<Engine>;
}

export interface Command {
  /** Behind `clearvm`: `run [OPTIONS] IMAGE [COMMAND] [ARG...]`. */
  usage: string;
  summary: string;
  options: OptionTable;
  /** Fewest and most operands. */
  operands: readonly [number, number];
  /** Command lines, and what each does. */
  examples: readonly (readonly [string, string])[];
  /** The exit status of a wrong command line and of a failure that has none of its own. */
  failureStatus: number;
  /** Where options end at the first operand, or some are refused with a hint; otherwise they may stand anywhere. */
  parse?(argv: readonly string[]): ParsedArguments;
  /** Returns the exit status. */
  run(args: ParsedArguments, context: CommandContext): Promise<number>;
}

interface Entry {
  summary: string;
  load: () => Promise<{ command: Command }>;
}

/** Every command, in the order of the help text. */
export const COMMANDS: Readonly<Record<string, Entry>> = {
  run: { summary: 'Run an image as a virtual machine', load: () => import('./run.js') },
  exec: { summary: 'Run a command in a running container', load: () => import('./exec.js') },
  pause: { summary: 'Stop the processors of containers', load: () => import('./pause.js') },
  unpause: { summary: 'Let paused containers go on', load: () => import('./unpause.js') },
  top: { summary: 'Show the processes in a container', load: () => import('./top.js') },
  stats: { summary: 'Show what running containers use', load: () => import('./stats.js') },
  create: { summary: 'Make a container, without starting it', load: () => import('./create.js') },
  start: { summary: 'Start containers that do not run', load: () => import('./start.js') },
  ps: { summary: 'List containers', load: () => import('./ps.js') },
  logs: { summary: 'Show what a container has printed', load: () => import('./logs.js') },
  attach: {
    summary: 'Connect standard input and output to a running container',
    load: () => import('./attach.js'),
  },
  stop: { summary: 'Stop containers', load: () => import('./stop.js') },
  kill: {
    summary: 'Send a signal to the commands of containers',
    load: () => import('./kill.js'),
  },
  restart: { summary: 'Stop and start containers', load: () => import('./restart.js') },
  wait: {
    summary: 'Wait for containers to end, and print their exit statuses',
    load: () => import('./wait.js'),
  },
  rm: { summary: 'Remove containers', load: () => import('./rm.js') },
  rename: { summary: 'Give a container another name', load: () => import('./rename.js') },
  update: { summary: 'Change how containers are run', load: () => import('./update.js') },
  cp: {
    summary: 'Copy files between a container and this host',
    load: () => import('./cp.js'),
  },
  diff: {
    summary: 'Show what a container has changed of its image',
    load: () => import('./diff.js'),
  },
  export: {
    summary: "Write a container's files into a tar archive",
    load: () => import('./export.js'),
  },
  commit: { summary: 'Make an image of a container', load: () => import('./commit.js') },
  port: { summary: 'List published ports', load: () => import('./port.js') },
  events: {
    summary: 'Show what happens to containers, images and volumes',
    load: () => import('./events.js'),
  },
  'container prune': {
    summary: 'Remove all containers that do not run',
    load: () => import('./container-prune.js'),
  },
  'volume create': { summary: 'Make a named volume', load: () => import('./volume-create.js') },
  'volume ls': { summary: 'List volumes', load: () => import('./volume-ls.js') },
  'volume rm': { summary: 'Remove volumes', load: () => import('./volume-rm.js') },
  'volume inspect': {
    summary: 'Show everything about volumes, as JSON',
    load: () => import('./volume-inspect.js'),
  },
  'volume prune': {
    summary: 'Remove volumes that no container uses',
    load: () => import('./volume-prune.js'),
  },
  fork: {
    summary: 'Make containers that go on from where a running one is',
    load: () => import('./fork.js'),
  },
  'snapshot create': {
    summary: 'Write a running container to disk, and end it',
    load: () => import('./snapshot-create.js'),
  },
  'snapshot restore': {
    summary: 'Make a container that goes on from a snapshot',
    load: () => import('./snapshot-restore.js'),
  },
  'snapshot ls': { summary: 'List snapshots', load: () => import('./snapshot-ls.js') },
  'snapshot rm': { summary: 'Remove snapshots', load: () => import('./snapshot-rm.js') },
  pull: { summary: 'Get an image from a registry', load: () => import('./pull.js') },
  push: { summary: 'Put an image into a registry', load: () => import('./push.js') },
  load: {
    summary: 'Load images from a docker or OCI archive, or an OCI layout',
    load: () => import('./load.js'),
  },
  import: {
    summary: 'Make an image from a root file system in a tar archive',
    load: () => import('./import.js'),
  },
  images: { summary: 'List images', load: () => import('./images.js') },
  tag: { summary: 'Give an image another name', load: () => import('./tag.js') },
  rmi: { summary: 'Remove images', load: () => import('./rmi.js') },
  save: { summary: 'Write images into an archive', load: () => import('./save.js') },
  history: { summary: 'Show how an image was made', load: () => import('./history.js') },
  'image inspect': {
    summary: 'Show everything about images, as JSON',
    load: () => import('./image-inspect.js'),
  },
  'image prune': {
    summary: 'Remove images without a name',
    load: () => import('./image-prune.js'),
  },
  login: { summary: 'Log in to a registry', load: () => import('./login.js') },
  logout: { summary: 'Log out of a registry', load: () => import('./logout.js') },
  'system prune': {
    summary: 'Remove containers that do not run, and images without a name',
    load: () => import('./system-prune.js'),
  },
  'system df': {
    summary: 'Show what images, containers and volumes take on the disk',
    load: () => import('./system-df.js'),
  },
  inspect: {
    summary: 'Show everything about containers and images, as JSON',
    load: () => import('./inspect.js'),
  },
  doctor: {
    summary: 'Say what this host lacks for running containers',
    load: () => import('./doctor.js'),
  },
  bench: {
    summary: 'Measure containers and VMs: start-up, memory, work, neighbours',
    load: () => import('./bench.js'),
  },
  version: { summary: 'Show versions', load: () => import('./version.js') },
};

/** docker's longer names. */
export const ALIASES: Readonly<Record<string, string>> = {
  'container exec': 'exec',
  'container pause': 'pause',
  'container stats': 'stats',
  'container top': 'top',
  'container unpause': 'unpause',
  'container attach': 'attach',
  'container commit': 'commit',
  'container cp': 'cp',
  'container create': 'create',
  'container diff': 'diff',
  'container export': 'export',
  'container inspect': 'inspect',
  'container kill': 'kill',
  'container list': 'ps',
  'container logs': 'logs',
  'container ls': 'ps',
  'container port': 'port',
  'container ps': 'ps',
  'container rename': 'rename',
  'container restart': 'restart',
  'container rm': 'rm',
  'container run': 'run',
  'container start': 'start',
  'container stop': 'stop',
  'container update': 'update',
  'container wait': 'wait',
  'system events': 'events',
  'snapshot list': 'snapshot ls',
  'snapshot remove': 'snapshot rm',
  'volume list': 'volume ls',
  'volume remove': 'volume rm',
  'image history': 'history',
  'image import': 'import',
  'image list': 'images',
  'image load': 'load',
  'image ls': 'images',
  'image pull': 'pull',
  'image push': 'push',
  'image remove': 'rmi',
  'image rm': 'rmi',
  'image save': 'save',
  'image tag': 'tag',
};
