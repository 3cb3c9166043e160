/** The network of a VM that has none: loopback, and the files that programs expect to find. */
import type { GuestFile } from '../vm/config.js';

/** /etc/hostname, /etc/hosts and /etc/resolv.conf of a container without a network. */
export function noNetworkFiles(hostname: string): GuestFile[] {
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
        'ff02::2\tip6-allrouters\n',
    },
    {
      path: '/etc/resolv.conf',
      mode: 0o644,
      content: '# This container has no network.\n',
    },
  ];
}
