// The whole table.
import { files, volumes } from './files.js';
import { images } from './images.js';
import { exec, lifecycle, logs } from './lifecycle.js';
import { lists, usage } from './look.js';
import { run, streams } from './run.js';
import type { Topic } from './table.js';

export const TOPICS: readonly Topic[] = [
  run,
  streams,
  lifecycle,
  logs,
  exec,
  lists,
  usage,
  files,
  volumes,
  images,
];
