// Docker 20.10 in the lab: Debian's packages, unpacked and not installed, because installing them would start a daemon on
// the machine that builds.
import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { cached, note, runProgram } from '../../../scripts/lab/cache.mjs';
import type { Host } from '../../lab/support.js';

const PACKAGES = ['docker.io', 'containerd'];

/** Fetches Docker, once: the directory that its packages unpack to. Errors: ERR_LAB_BUILD. */
export async function prepareDocker(): Promise<string> {
  // The version is no part of the key, as with the lab's kernel.
  return cached('docker', PACKAGES, async (at: string) => {
    note(`fetching Debian's ${PACKAGES.join(' and ')}, once`);
    await runProgram('apt-get', ['-o', 'APT::Sandbox::User=root', 'download', ...PACKAGES], {
      cwd: at,
    });
    for (const file of readdirSync(at).filter((name) => name.endsWith('.deb'))) {
      await runProgram('dpkg-deb', ['-x', file, '.'], { cwd: at });
      rmSync(join(at, file));
    }
  });
}

/**
 * Starts dockerd in the lab, with containers that have loopback alone, as ours do, and loads an image.
 *
 * @param archive a docker archive, in the lab
 */
export async function startDocker(host: Host, directory: string, archive: string): Promise<void> {
  const { status, stdout, stderr } = await host.run([
    'bash',
    '-c',
    `export PATH=${directory}/usr/bin:${directory}/usr/sbin:$PATH
     # Docker would ask for apparmor_parser.
     umount /sys/kernel/security
     mkdir -p /var/lib/clearvm/docker /run/dockerd && cd /
     setsid dockerd -H unix:///run/docker.sock --data-root /var/lib/clearvm/docker --exec-root /run/dockerd \\
       --iptables=false --ip6tables=false --bridge=none -s overlay2 > /run/dockerd/log 2>&1 < /dev/null &
     until [ -S /run/docker.sock ] && docker version > /dev/null 2>&1; do
       kill -0 $! || { tail -5 /run/dockerd/log; exit 1; }
       sleep 0.2
     done
     docker load -q -i ${archive}`,
  ]);
  if (status !== 0) throw new Error(`docker cannot be started: ${stdout}${stderr}`);
}
