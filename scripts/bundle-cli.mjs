// Makes dist/cli out of src/cli: first.js with all that `run` needs, later.js with the rest and the packages, plots.js, enter.js, which only ordinary
// users' commands read, and the launcher that loads them. docs/decisions/cli-bundle.md says why; the library (dist/index.js) stays as tsc made it.
import fs from 'node:fs';
import { isBuiltin } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { build } from 'esbuild';

const TOP = path.dirname(path.dirname(fileURLToPath(import.meta.url)));

/** What is imported late in the source, but by every run: it is loaded with the first file. */
const AT_ONCE = new Set(['src/cli/run.ts', 'src/cli/ps.ts', 'src/engine/engine.ts']);

/** A plotting library as large as all the rest: it has a file of its own, which only reports read. */
const PLOTS = 'src/bench/report/plots.ts';

/**
 * Gives Node's own modules to whoever imports them as objects that load them when a member is asked for: crypto, net and
 * child_process take 10 ms each, and most commands call none of their functions. esbuild's imports copy an object's own
 * members, of which these have none, and keep its prototype. What is a function itself cannot be given so: events, of which
 * packages make subclasses, and which Node has loaded anyway; and what undici calls.
 */
const lateBuiltins = {
  name: 'late-builtins',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /./ }, ({ path: name, namespace, importer }) =>
      isBuiltin(name) &&
      namespace !== 'late' &&
      !/^(node:)?events$/.test(name) &&
      !importer.includes('node_modules/undici/')
        ? { path: name.replace(/^node:/, ''), namespace: 'late' }
        : undefined,
    );
    onLoad({ filter: /./, namespace: 'late' }, ({ path: name }) => ({
      contents: `module.exports = Object.create(
        new Proxy({}, { get: (_, member) => require('node:${name}')[member] }));`,
    }));
  },
};

/** yargs asks for the width of each word; the package that knows compiles 400 ms of Unicode tables, whatever the word. */
const plainWidths = {
  name: 'plain-widths',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^string-width$/ }, ({ resolveDir, namespace }) =>
      namespace === 'width' ? undefined : { path: resolveDir, namespace: 'width' },
    );
    onLoad({ filter: /.*/, namespace: 'width' }, ({ path: resolveDir }) => ({
      contents: `module.exports = (text, options) =>
        /^[ -~]*$/.test(text) ? text.length : require('string-width').default(text, options);`,
      resolveDir,
    }));
  },
};

const common = {
  absWorkingDir: TOP,
  bundle: true,
  platform: 'node',
  target: 'node20',
  format: 'cjs',
  // Node reads it as Latin-1, which costs nothing.
  charset: 'ascii',
  logLevel: 'warning',
  legalComments: 'none',
};
const bundled = {
  ...common,
  minify: true,
  define: { 'import.meta.url': 'bundleUrl', 'import.meta.dirname': '__dirname' },
  banner: { js: "const bundleUrl='file://'+__filename;" },
  // Node's import() would start its ESM loader for what is here already, or is Node's own.
  supported: { 'dynamic-import': false },
};
/**
 * esbuild gives each module an object with a getter for each of its exports, at the start of the bundle: defining 200 of them takes 3
 * icount-ms, and nearly none is ever used. These objects get a prototype in place of the getters, which looks an export up when
 * it is asked for. Errors: esbuild writes something else than is known here.
 */
function cheapExports(file) {
  let text = fs.readFileSync(file, 'latin1');
  const helper =
    /([\w$]+)=\((\w),(\w)\)=>\{for\(var (\w) in \3\)[\w$]+\(\2,\4,\{get:\3\[\4\],enumerable:!0\}\)\}/.exec(
      text,
    );
  if (!helper) throw new Error(`${file}: esbuild's __export is not as it was`);
  const [whole, name, , getters] = helper;
  const cheap = `Object.create(new Proxy(${getters},{get:(t,n)=>Object.hasOwn(t,n)?t[n]():void 0}))`;
  const escaped = name.replaceAll('$', '\\$');
  // The bundle's own exports are copied from such an object, and stay.
  const [, own] = /module\.exports=[\w$]+\(([\w$]+)\)/.exec(text) ?? [];
  text = text.replace(whole, () => `${whole},${name}_=${getters}=>${cheap}`);
  let others = 0;
  text = text.replace(
    new RegExp(`var ([\\w$]+)=\\{\\};${escaped}\\(\\1,\\{`, 'g'),
    (call, variable) => (variable === own ? call : (others++, `var ${variable}=${name}_({`)),
  );
  const left = text.split(`;${name}(`).length - 1;
  if (own === undefined || others === 0 || left !== 1) {
    throw new Error(`${file}: esbuild calls __export otherwise than it did`);
  }
  fs.writeFileSync(file, text, 'latin1');
}

const relative = (file) => path.relative(TOP, file);

/** Which of src/ is loaded at once when the command starts, and which of it by import() (from there on, in turn). */
async function split() {
  const { metafile } = await build({
    ...common,
    entryPoints: ['src/cli/main.ts'],
    outdir: 'none',
    packages: 'external',
    format: 'esm',
    splitting: true,
    metafile: true,
    write: false,
  });
  const first = new Set();
  const later = new Set();
  const visit = (file) => {
    if (first.has(file)) return;
    first.add(file);
    for (const { path: name, kind, external } of metafile.inputs[file].imports) {
      if (external) continue;
      if (kind === 'dynamic-import' && !AT_ONCE.has(name)) later.add(name);
      else visit(name);
    }
  };
  visit('src/cli/main.ts');
  return { first, later: [...later].filter((name) => !first.has(name) && name !== PLOTS) };
}

/** Every import of one of `files` becomes what `expression` gives for its name. */
function replaced(files, expression) {
  const wanted = new Set(files);
  const namespace = `replaced by ${expression('')}`;
  return {
    name: namespace,
    setup({ onResolve, onLoad }) {
      onResolve({ filter: /^\.{1,2}\/.*\.js$/ }, ({ path: name, resolveDir }) => {
        const file = relative(path.resolve(resolveDir, name)).replace(/\.js$/, '.ts');
        return wanted.has(file) ? { path: file, namespace } : undefined;
      });
      onLoad({ filter: /.*/, namespace }, ({ path: file }) => ({
        contents: `module.exports = ${expression(JSON.stringify(file))};`,
      }));
    },
  };
}

/** Fills a directory, dist/cli unless given. Errors: those of esbuild, which prints them. */
export async function bundleCli(out = path.join(TOP, 'dist/cli')) {
  fs.rmSync(out, { recursive: true, force: true });
  const { first, later } = await split();
  await build({
    ...bundled,
    stdin: {
      resolveDir: TOP,
      contents: `${[...first].map((file, i) => `import * as m${i} from './${file}';`).join('')}
        export const modules = { ${[...first].map((file, i) => `'${file}': m${i}`).join()} };
        export { main } from './src/cli/main.ts';`,
    },
    outfile: path.join(out, 'first.js'),
    plugins: [replaced(later, (name) => `require('./later.js').modules[${name}]`), lateBuiltins],
    external: ['./later.js'],
  });
  cheapExports(path.join(out, 'first.js'));
  await build({
    ...bundled,
    stdin: {
      resolveDir: TOP,
      contents: `export const modules = {
        ${later.map((file) => `get '${file}'() { return require('./${file}'); }`).join()} };`,
    },
    outfile: path.join(out, 'later.js'),
    plugins: [
      replaced(first, (name) => `require('./first.js').modules[${name}]`),
      replaced([PLOTS], () => `require('./plots.js')`),
      lateBuiltins,
      plainWidths,
    ],
    external: ['./first.js', './plots.js'],
  });
  await build({
    ...bundled,
    entryPoints: [PLOTS],
    outfile: path.join(out, 'plots.js'),
    plugins: [replaced(first, (name) => `require('./first.js').modules[${name}]`)],
    external: ['./first.js'],
  });
  await build({
    ...bundled,
    entryPoints: ['src/cli/enter.ts'],
    outfile: path.join(out, 'enter.js'),
  });
  await build({
    ...common,
    entryPoints: ['src/cli/launch.ts'],
    outfile: path.join(out, 'main.js'),
  });
  fs.writeFileSync(path.join(out, 'package.json'), '{ "type": "commonjs" }\n');
  fs.chmodSync(path.join(out, 'main.js'), 0o755);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await bundleCli();
