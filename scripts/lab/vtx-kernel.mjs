// The kernel of the emulated VT-x host: Debian's source, tinyconfig and vtx-host.config.

import { appendFileSync, copyFileSync, mkdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { findLost, parseFragment, renderConfig } from '../../guest-kernel/fragments.mjs';
import { BUILD_ENVIRONMENT } from '../../guest-kernel/recipe.mjs';
import { cached, findFile, findProgram, LabError, note, runProgram } from './cache.mjs';

const ARCHIVE = '/usr/src/linux-source-6.1.tar.xz';
const FRAGMENT = fileURLToPath(new URL('vtx-host.config', import.meta.url));

/**
 * Builds the kernel, or finds it in the cache.
 *
 * @returns {Promise<string>} path of a bzImage
 * @throws {LabError} ERR_LAB_PROGRAM, ERR_LAB_BUILD
 */
export async function prepareVtxKernel() {
  findFile(ARCHIVE, 'linux-source-6.1');
  const { symbols, problems } = parseFragment(readFileSync(FRAGMENT, 'utf8'), 'vtx-host.config');
  if (problems.length > 0) throw new LabError('ERR_LAB_BUILD', problems.join('\n'));
  const config = renderConfig(symbols);
  const source = statSync(ARCHIVE);
  const inputs = [config, `${ARCHIVE} ${source.size} ${source.mtimeMs}`];
  const directory = await cached('vtx-kernel', inputs, async (at) => {
    for (const name of ['gcc', 'make', 'flex', 'bison', 'bc', 'xz', 'lz4']) findProgram(name);
    findFile('/usr/include/gelf.h', 'libelf-dev');
    note('building the kernel of the VT-x host, once: some minutes');
    const tree = join(at, 'linux');
    mkdirSync(tree);
    const unpack = [
      '-xf',
      ARCHIVE,
      '-C',
      tree,
      '--strip-components=1',
      '--exclude=*/Documentation/*.rst',
    ];
    await runProgram('tar', unpack);
    const { PATH, HOME } = process.env;
    const make = (...args) =>
      runProgram('make', ['-s', 'ARCH=x86_64', ...args], {
        cwd: tree,
        env: { PATH, HOME, ...BUILD_ENVIRONMENT },
      });
    await make('tinyconfig');
    appendFileSync(join(tree, '.config'), config);
    await make('olddefconfig');
    const lost = findLost(symbols, readFileSync(join(tree, '.config'), 'utf8'));
    if (lost.length > 0) throw new LabError('ERR_LAB_BUILD', lost.join('\n'));
    await make('-j2', 'bzImage');
    copyFileSync(join(tree, 'arch/x86/boot/bzImage'), join(at, 'bzImage'));
    rmSync(tree, { recursive: true });
  });
  return join(directory, 'bzImage');
}
