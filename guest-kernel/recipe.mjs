// How the kernel is built: everything besides the fragments, the patches, the source and the compiler that decides which
// bytes come out. The cache key contains a hash of this file, pack.mjs and settle.mjs, so a change here rebuilds every kernel,
// and a change of messages or locking elsewhere does not.

/**
 * Environment of make: the build's date, user, host and number would otherwise get into the kernel's version string.
 * A fixed locale and time zone keep sorted tables equal on every machine.
 */
export const BUILD_ENVIRONMENT = {
  KBUILD_BUILD_TIMESTAMP: 'Thu Jan  1 00:00:00 UTC 1970',
  KBUILD_BUILD_USER: 'clearvm',
  KBUILD_BUILD_HOST: 'clearvm',
  KBUILD_BUILD_VERSION: '1',
  LC_ALL: 'C',
  TZ: 'UTC',
};

/**
 * The steps, as command lines run in the source tree, which has been patched. Between `configure` and `settle` the fragments are
 * appended to .config, where the last value of a symbol wins.
 */
export const STEPS = {
  configure: ['make', '-s', 'ARCH=x86_64', 'tinyconfig'],
  settle: ['make', '-s', 'ARCH=x86_64', 'olddefconfig'],
  compile: ['make', 'ARCH=x86_64', 'vmlinux'],
};

/** What is kept of a build besides the packed vmlinux (pack.mjs): name in the tree, name in the cache. */
export const RESULTS = [
  ['System.map', 'System.map'],
  ['.config', 'config'],
];

/** The files that decide, together with the build's inputs, which bytes come out. */
export const RECIPE_FILES = ['recipe.mjs', 'pack.mjs', 'settle.mjs'];
