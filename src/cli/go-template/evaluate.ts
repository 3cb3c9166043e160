/** What a template makes of a value. */
import { FUNCTIONS, isTrue } from './functions.js';
import {
  parseTemplate,
  TemplateError,
  type Expression,
  type Node,
  type Pipeline,
} from './parse.js';
import { isMap, NO_VALUE, printValue } from './print.js';

/** A value, and the name of the member that it is. */
interface Named {
  value: unknown;
  name?: string | undefined;
}

/** Cells, which a block shares with those around it until it declares its own. */
type Variables = Map<string, { held: Named }>;

/** Ends an iteration, with what it has rendered. */
class Leave extends Error {
  constructor(
    readonly kind: 'break' | 'continue',
    readonly text: string,
  ) {
    super(`unexpected {{${kind}}}`);
  }
}

/** Compiles a template; what it returns renders a value. Errors of both: TemplateError. */
export function compileTemplate(template: string): (root: unknown) => string {
  const nodes = parseTemplate(template);
  checkFunctions(nodes);
  return (root) => render(nodes, { value: root }, new Map([['', { held: { value: root } }]]));
}

/** A function that is not there is an error of the template, whatever it is used for. */
function checkFunctions(nodes: readonly Node[]): void {
  const check = ({ commands }: Pipeline): void => {
    for (const expression of commands.flat()) {
      if (expression.kind === 'group') check(expression.pipeline);
      if (expression.kind === 'function' && !Object.hasOwn(FUNCTIONS, expression.name)) {
        throw new TemplateError(`function "${expression.name}" not defined`);
      }
    }
  };
  for (const node of nodes) {
    if ('pipeline' in node) check(node.pipeline);
    if ('body' in node) checkFunctions([...node.body, ...node.otherwise]);
  }
}

function render(nodes: readonly Node[], dot: Named, variables: Variables): string {
  // What a block declares is gone behind it.
  const own = new Map(variables);
  let text = '';
  for (const node of nodes) {
    switch (node.kind) {
      case 'text':
        text += node.text;
        break;
      case 'action': {
        const { value, name } = run(node.pipeline, dot, own);
        if (node.pipeline.variables.length === 0) text += printValue(value, name);
        else declare(node.pipeline, [{ value, name }], own);
        break;
      }
      case 'if':
      case 'with': {
        const found = run(node.pipeline, dot, own);
        const scope = new Map(own);
        declare(node.pipeline, [found], scope);
        const inner = node.kind === 'with' ? found : dot;
        text += isTrue(found.value)
          ? render(node.body, inner, scope)
          : render(node.otherwise, dot, scope);
        break;
      }
      case 'range':
        text += renderRange(node, dot, own);
        break;
      default:
        throw new Leave(node.kind, text);
    }
  }
  return text;
}

function renderRange(
  node: Extract<Node, { kind: 'range' | 'if' | 'with' }>,
  dot: Named,
  variables: Variables,
): string {
  const { value } = run({ ...node.pipeline, variables: [] }, dot, variables);
  const list = Array.isArray(value);
  if (!list && typeof value !== 'object' && value !== undefined && value !== NO_VALUE) {
    throw new TemplateError(`range can't iterate over ${printValue(value)}`);
  }
  const entries =
    value === NO_VALUE ? [] : Object.entries((value ?? {}) as Record<string, unknown>);
  // Go goes through maps in the order of their keys.
  if (!list) entries.sort(([a], [b]) => (a < b ? -1 : 1));
  if (entries.length === 0) return render(node.otherwise, dot, variables);
  let text = '';
  for (const [key, each] of entries) {
    const scope = new Map(variables);
    const position = { value: list ? Number(key) : key };
    const item = { value: each, name: list ? undefined : key };
    const { variables: names } = node.pipeline;
    declare(node.pipeline, names.length === 2 ? [position, item] : [item], scope);
    try {
      text += render(node.body, item, scope);
    } catch (error) {
      if (!(error instanceof Leave)) throw error;
      text += error.text;
      if (error.kind === 'break') break;
    }
  }
  return text;
}

function declare(
  { variables: names, declares }: Pipeline,
  values: readonly Named[],
  scope: Variables,
): void {
  names.forEach((name, index) => {
    const held = values[index] ?? { value: null };
    const cell = scope.get(name);
    if (declares) scope.set(name, { held });
    else if (cell) cell.held = held;
    else throw new TemplateError(`undefined variable "$${name}"`);
  });
}

function run(pipeline: Pipeline, dot: Named, variables: Variables): Named {
  let result: Named | undefined;
  for (const [first, ...rest] of pipeline.commands) {
    const args = rest.map((each) => evaluate(each, dot, variables).value);
    if (result) args.push(result.value);
    result = call(first as Expression, args, dot, variables);
  }
  return result as Named;
}

function call(first: Expression, args: unknown[], dot: Named, variables: Variables): Named {
  if (first.kind === 'function') return { value: FUNCTIONS[first.name]?.(...args) };
  const found = evaluate(first, dot, variables);
  if (typeof found.value === 'function') {
    return { value: (found.value as (...values: unknown[]) => unknown)(...args) };
  }
  if (args.length > 0) throw new TemplateError("can't give argument to non-function");
  return found;
}

function evaluate(expression: Expression, dot: Named, variables: Variables): Named {
  switch (expression.kind) {
    case 'literal':
      return { value: expression.value };
    case 'field':
      return fieldsOf(dot, expression.names);
    case 'function':
      return call(expression, [], dot, variables);
    case 'group':
      return fieldsOf(run(expression.pipeline, dot, variables), expression.names);
    case 'variable': {
      const cell = variables.get(expression.name);
      if (!cell) throw new TemplateError(`undefined variable "$${expression.name}"`);
      return fieldsOf(cell.held, expression.names);
    }
  }
}

function fieldsOf(from: Named, names: readonly string[]): Named {
  return names.reduce<Named>((held, name) => {
    const { value } = held;
    if (value === null || value === undefined || value === NO_VALUE) {
      throw new TemplateError(`nil pointer evaluating .${name}`);
    }
    if (typeof value === 'object' && Object.hasOwn(value, name)) {
      return { value: (value as Record<string, unknown>)[name], name };
    }
    if (isMap(held.name)) return { value: NO_VALUE, name };
    throw new TemplateError(`there is no .${names.join('.')}`);
  }, from);
}
