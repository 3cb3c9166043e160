// Real programs beside runc (programs-host.ts): those that make and change files.

import { compare, FULL } from './programs-host.js';

compare([
  ['apt-get installs, upgrades and purges a local package', ['apt.sh']],
  ['tar of a tree while it is unlinked', ['tar.sh', '/var/tmp']],
  ['git init, add, commit, merge, gc, clone, fsck', ['git.sh', '/var/tmp']],
  ['perl', ['perl.pl', '/var/tmp']],
  ['mappings, locks, names, attributes, space', ['files.py', '/var/tmp']],
  ['the same on a volume', ['files.py', '/volume']],
  ['sqlite3 with a WAL database and two writers', ['sqlite.sh', '/var/tmp']],
  ['the same on a volume', ['sqlite.sh', '/volume']],
]);
if (FULL) {
  compare([
    ['tar on a volume', ['tar.sh', '/volume']],
    ['perl on a volume', ['perl.pl', '/volume']],
  ]);
}
