#!/usr/bin/env node
// Compiles every src/<part>/schemas/<name>.schema.json into src/generated/validators/<name>.ts: a plain function
// without ajv behind it, because compiling a schema at run time costs tens of milliseconds of every start.
//
//   import { validate } from '../generated/validators/vm-config.js';
//   if (!validate(value)) report(validate.errors);      // errors: ajv's ErrorObject[]
//
// A schema may refer to another by its $id. Only files whose content changes are written, so that tsc --incremental
// and watchers stay quiet.
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { Ajv2020 } from 'ajv/dist/2020.js';
import standaloneModule from 'ajv/dist/standalone/index.js';

const standaloneCode = standaloneModule.default;
const top = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const out = path.join(top, 'src/generated/validators');

function findSchemas() {
  const found = [];
  for (const part of fs.readdirSync(path.join(top, 'src')).sort()) {
    const folder = path.join(top, 'src', part, 'schemas');
    if (!fs.existsSync(folder)) continue;
    for (const file of fs.readdirSync(folder).sort()) {
      if (file.endsWith('.schema.json')) found.push(path.join(folder, file));
    }
  }
  return found;
}

// ajv's ESM output still asks for its two run-time helpers with require().
function importHelpers(code) {
  const imports = [];
  const body = code.replace(
    /require\("(ajv\/dist\/runtime\/(\w+))"\)\.default/g,
    (_, file, name) => {
      const local = `${name}Module`;
      const line = `import ${local} from '${file}.js';`;
      if (!imports.includes(line)) imports.push(line);
      return `${local}.default`;
    },
  );
  const rest = body.match(/require\([^)]*\)/);
  if (rest) throw new Error(`unexpected run-time dependency in a generated validator: ${rest[0]}`);
  return imports.join('\n') + '\n' + body;
}

const files = findSchemas();
const ajv = new Ajv2020({
  code: { source: true, esm: true, lines: true },
  strict: true,
  allowUnionTypes: true,
});
const schemas = files.map((file) => {
  const schema = JSON.parse(fs.readFileSync(file, 'utf8'));
  if (!schema.$id) throw new Error(`${file}: a schema needs an $id`);
  ajv.addSchema(schema);
  return { name: path.basename(file, '.schema.json'), id: schema.$id, file };
});

fs.mkdirSync(out, { recursive: true });
const wanted = new Set();
for (const { name, id, file } of schemas) {
  if (wanted.has(`${name}.ts`)) throw new Error(`two schemas are called ${name}`);
  wanted.add(`${name}.ts`);
  ajv.getSchema(id); // compiles
  const code = importHelpers(standaloneCode(ajv, { validate: id }));
  const text =
    `// @ts-nocheck: generated from ${path.relative(top, file)} by scripts/build-schemas.mjs\n` +
    `import type { ErrorObject } from 'ajv';\n` +
    code.replace(/^"use strict";/, '').replace(/export const validate = (\w+);/, '') +
    `\nexport const validate = ${code.match(/export const validate = (\w+);/)[1]} as {\n` +
    `  (data: unknown): boolean;\n  errors?: ErrorObject[] | null;\n};\n`;
  const target = path.join(out, `${name}.ts`);
  if (!fs.existsSync(target) || fs.readFileSync(target, 'utf8') !== text) {
    fs.writeFileSync(target, text);
  }
}
for (const stale of fs.readdirSync(out)) {
  if (!wanted.has(stale)) fs.rmSync(path.join(out, stale));
}
