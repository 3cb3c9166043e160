// Checks which parts of native/ and rootfs/ include which: docs/architecture.md, "imports point one way". A part may
// include itself, native/base, native/protocol, and what stands here.
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

import { listFiles, TOP } from './lib/steps.mjs';

const ALLOWED = {
  'native/base': [],
  'native/protocol': [],
  'native/kvm': [],
  'native/boot': ['native/kvm'],
  'native/p9': [],
  'native/jail': [],
  // fs9p is the bridge between the two: the device knows the server, the server knows no device.
  'native/virtio': ['native/kvm/memory.h', { 'native/virtio/fs9p': ['native/p9/server.h'] }],
  'native/vmm': ['native/kvm', 'native/boot', 'native/virtio', 'native/p9', 'native/jail'],
  'native/addon': [
    'native/kvm',
    'native/boot',
    'native/virtio',
    'native/p9',
    'native/jail',
    'native/vmm',
  ],
  'native/monitor': ['native/vmm/frame_channel.h'],
  native: ['native/vmm'], // main.cc, monitor_main.cc, userns_main.cc
  rootfs: [],
};
const SHARED = ['native/base', 'native/protocol'];

const below = (name, place) => name === place || name.startsWith(`${place}/`);

/** The places that `file` may include from. */
function allowedFor(file, part) {
  const allowed = part === 'rootfs' ? ['native/protocol'] : [...SHARED];
  for (const rule of ALLOWED[part]) {
    if (typeof rule === 'string') allowed.push(rule);
    else
      for (const [stem, places] of Object.entries(rule))
        if (path.basename(file).startsWith(path.basename(stem))) allowed.push(...places);
  }
  return [part, ...allowed];
}

/** Returns one line for each include that points the wrong way. */
export function checkIncludes() {
  const problems = [];
  const files = ['native', 'rootfs'].flatMap((folder) =>
    listFiles(folder, (name) => /\.(cc|c|h)$/.test(name)),
  );
  for (const file of files) {
    const part = path.dirname(file);
    if (!(part in ALLOWED)) {
      problems.push(`${file}: scripts/check-includes.mjs has no rule for ${part}`);
      continue;
    }
    const lines = fs.readFileSync(path.join(TOP, file), 'utf8').split('\n');
    for (const [index, line] of lines.entries()) {
      const included = /^\s*#\s*include\s+"([^"]+)"/.exec(line)?.[1];
      if (included === undefined) continue;
      const at = `${file}:${index + 1}`;
      if (!fs.existsSync(path.join(TOP, included))) {
        problems.push(`${at}: "${included}" is not a path from the project's folder`);
      } else if (!allowedFor(file, part).some((place) => below(included, place))) {
        problems.push(`${at}: ${part} must not include "${included}"`);
      }
    }
  }
  return problems;
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const problems = checkIncludes();
  for (const problem of problems) console.error(problem);
  process.exitCode = problems.length > 0 ? 1 : 0;
}
