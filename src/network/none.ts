/** The network of a VM that has none: loopback, and the files that programs expect to find. */
import { closeSync, mkdirSync, openSync, statSync } from 'node:fs';

import type { Addon } from '../vm/addon-types.js';
import type { GuestFile } from '../vm/config.js';

/** /etc/hostname, /etc/hosts (with more lines) and /etc/resolv.conf of a container without a network. */
export function noNetworkFiles(hostname: string, hostLines = ''): GuestFile[] {
  return [
    { path: '/etc/hostname', mode: 0o644, content: `${hostname}\n` },
    {
      path: '/etc/hosts',
      mode: 0o644,
      content:
        `127.0.0.1\tlocalhost ${hostname}\n` +
        '::1\tlocalhost ip6-localhost ip6-loopback\n' +
        'fe00::\tip6-localnet\n' +
        'ff00::\tip6-mcastprefix\n' +
        'ff02::1\tip6-allnodes\n' +
        'ff02::2\tip6-allrouters\n' +
        hostLines,
    },
    {
      path: '/etc/resolv.conf',
      mode: 0o644,
      content: '# This container has no network.\n',
    },
  ];
}

/**
 * The path of an empty network namespace for VMMs, made when it is first asked for after the host has come up; undefined where
 * that cannot be, and each VMM has to make its own.
 */
export function emptyNetwork(runtimeDirectory: string, addon: Addon): string | undefined {
  const file = `${runtimeDirectory}/netns`;
  try {
    mkdirSync(runtimeDirectory, { recursive: true, mode: 0o711 });
    const there = statSync(file, { throwIfNoEntry: false });
    // What is mounted on it is root's to open, and no user namespace's.
    if (!there) closeSync(openSync(file, 'a', 0o600));
    if (!there || there.dev === statSync(runtimeDirectory).dev) addon.makeNetwork(file);
    return file;
  } catch {
    return undefined;
  }
}
