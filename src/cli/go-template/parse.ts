/** Go's text/template as a tree: what `--format` takes. No templates within templates (define, template, block). */

/** An operand or a call: each is evaluated to a value. */
export type Expression =
  | { kind: 'literal'; value: unknown }
  /** `.A.B` of the cursor; no names: the cursor itself. */
  | { kind: 'field'; names: string[] }
  /** `$` and `$name`, with fields behind. */
  | { kind: 'variable'; name: string; names: string[] }
  | { kind: 'function'; name: string }
  /** `(pipeline).A` */
  | { kind: 'group'; pipeline: Pipeline; names: string[] };

/** Commands, each of which is given the value of the one before as its last argument. */
export interface Pipeline {
  /** `$name :=` or `$name =`, or two of them in a range. */
  variables: string[];
  declares: boolean;
  commands: Expression[][];
}

export type Node =
  | { kind: 'text'; text: string }
  | { kind: 'action'; pipeline: Pipeline }
  | { kind: 'if' | 'with' | 'range'; pipeline: Pipeline; body: Node[]; otherwise: Node[] }
  | { kind: 'break' | 'continue' };

/** What is wrong with a template. The message has no name in front. */
export class TemplateError extends Error {}

interface Token {
  kind: 'text' | 'open' | 'close' | 'space' | 'word' | 'field' | 'variable' | 'string' | 'number';
  text: string;
}

const ESCAPES: Readonly<Record<string, string>> = { n: '\n', t: '\t', r: '\r', '0': '\0' };

/** What stands within `{{ }}`, by kind; the first that matches. */
const LEXEMES: readonly (readonly [Token['kind'] | 'comment', RegExp])[] = [
  ['comment', /\/\*[^]*?\*\//y],
  ['space', /\s+/y],
  ['string', /"(?:[^"\\\n]|\\.)*"|`[^`]*`/y],
  ['number', /[+-]?\d+(?:\.\d+)?/y],
  ['variable', /\$\w*/y],
  ['field', /\.\w*/y],
  ['word', /:=|[a-zA-Z_]\w*|[|()=,]/y],
];

function* lex(template: string): Generator<Token> {
  let at = 0;
  let trim = false;
  while (at < template.length) {
    const open = template.indexOf('{{', at);
    let text = template.slice(at, open < 0 ? undefined : open);
    if (trim) text = text.trimStart();
    if (open < 0) {
      yield { kind: 'text', text };
      return;
    }
    at = open + 2;
    if (/^-\s/.test(template.slice(at, at + 2))) {
      text = text.trimEnd();
      at++;
    }
    yield { kind: 'text', text };
    yield { kind: 'open', text: '{{' };
    for (;;) {
      const [close, dash] = /^(\s-)?\}\}/.exec(template.slice(at, at + 4)) ?? [];
      if (close !== undefined) {
        trim = dash !== undefined;
        at += close.length;
        yield { kind: 'close', text: '}}' };
        break;
      }
      if (at >= template.length) throw new TemplateError('unclosed action');
      const [kind, lexeme] = lexemeAt(template, at);
      at += lexeme.length;
      if (kind !== 'comment') yield { kind, text: lexeme };
    }
  }
}

function lexemeAt(template: string, at: number): [Token['kind'] | 'comment', string] {
  for (const [kind, pattern] of LEXEMES) {
    pattern.lastIndex = at;
    const found = pattern.exec(template);
    if (found) return [kind, found[0]];
  }
  if (template[at] === '"') throw new TemplateError('unterminated quoted string');
  throw new TemplateError(`unexpected ${JSON.stringify(template[at])} in an action`);
}

function unquote(text: string): string {
  if (text.startsWith('`')) return text.slice(1, -1);
  return text.slice(1, -1).replace(/\\(.)/g, (_, letter: string) => ESCAPES[letter] ?? letter);
}

/** Parses a template. Errors: TemplateError. */
export function parseTemplate(template: string): Node[] {
  return new Parser([...lex(template)]).parse();
}

class Parser {
  readonly #tokens: Token[];
  #at = 0;

  constructor(tokens: Token[]) {
    this.#tokens = tokens;
  }

  parse(): Node[] {
    const nodes = this.#nodes();
    if (this.#at < this.#tokens.length) throw new TemplateError(`unexpected {{${this.#word()}}}`);
    return nodes;
  }

  /** Up to the end of the template, or to an `{{end` or `{{else` that is left to the caller. */
  #nodes(): Node[] {
    const nodes: Node[] = [];
    for (;;) {
      const token = this.#tokens[this.#at];
      if (!token) return nodes;
      if (token.kind === 'text') {
        if (token.text !== '') nodes.push({ kind: 'text', text: token.text });
        this.#at++;
        continue;
      }
      const word = this.#word();
      if (word === 'end' || word === 'else') return nodes;
      this.#at++;
      this.#space();
      if (this.#tokens[this.#at]?.kind === 'close') {
        this.#at++; // a comment
      } else if (word === 'if' || word === 'with' || word === 'range') {
        this.#at++;
        nodes.push(this.#block(word));
      } else if (word === 'break' || word === 'continue') {
        this.#at++;
        this.#close();
        nodes.push({ kind: word });
      } else {
        nodes.push({ kind: 'action', pipeline: this.#pipeline('close') });
      }
    }
  }

  /** The first word of the action that begins here. */
  #word(): string {
    const next = this.#tokens.slice(this.#at + 1).find(({ kind }) => kind !== 'space');
    return next?.kind === 'word' ? next.text : '';
  }

  #block(kind: 'if' | 'with' | 'range'): Node {
    const pipeline = this.#pipeline('close');
    const body = this.#nodes();
    let otherwise: Node[] = [];
    const word = this.#word();
    if (word === '') throw new TemplateError('unexpected EOF');
    this.#at++;
    this.#space();
    this.#at++;
    this.#space();
    if (word === 'else' && this.#tokens[this.#at]?.text === 'if') {
      this.#at++;
      return { kind, pipeline, body, otherwise: [this.#block('if')] };
    }
    this.#close();
    if (word === 'else') {
      otherwise = this.#nodes();
      if (this.#word() !== 'end') throw new TemplateError('unexpected EOF');
      this.#at++;
      this.#space();
      this.#at++;
      this.#close();
    }
    return { kind, pipeline, body, otherwise };
  }

  #space(): void {
    while (this.#tokens[this.#at]?.kind === 'space') this.#at++;
  }

  #close(): void {
    this.#space();
    const token = this.#tokens[this.#at++];
    if (token?.kind !== 'close') throw new TemplateError(`unexpected ${token?.text ?? 'EOF'}`);
  }

  /** Up to `}}` or `)`, which is taken. */
  #pipeline(end: 'close' | ')'): Pipeline {
    const pipeline: Pipeline = { variables: [], declares: false, commands: [] };
    this.#variables(pipeline);
    let command: Expression[] = [];
    for (;;) {
      this.#space();
      const token = this.#tokens[this.#at];
      if (!token) throw new TemplateError('unexpected EOF');
      const isEnd = end === 'close' ? token.kind === 'close' : token.text === ')';
      if (isEnd || token.text === '|') {
        this.#at++;
        if (command.length === 0) throw new TemplateError('missing value for command');
        pipeline.commands.push(command);
        if (isEnd) return pipeline;
        command = [];
        continue;
      }
      command.push(this.#operand());
    }
  }

  #variables(pipeline: Pipeline): void {
    const from = this.#at;
    const names: string[] = [];
    for (;;) {
      this.#space();
      const variable = this.#tokens[this.#at];
      if (variable?.kind !== 'variable') break;
      this.#at++;
      this.#space();
      const sign = this.#tokens[this.#at]?.text;
      names.push(variable.text.slice(1));
      this.#at++;
      if (sign === ',') continue;
      if (sign !== ':=' && sign !== '=') break;
      pipeline.variables = names;
      pipeline.declares = sign === ':=';
      return;
    }
    this.#at = from;
  }

  #operand(): Expression {
    const token = this.#tokens[this.#at++] as Token;
    switch (token.kind) {
      case 'string':
        return { kind: 'literal', value: unquote(token.text) };
      case 'number':
        return { kind: 'literal', value: Number(token.text) };
      case 'variable':
        return { kind: 'variable', name: token.text.slice(1), names: this.#fields() };
      case 'field': {
        const first = token.text.slice(1);
        return { kind: 'field', names: first === '' ? [] : [first, ...this.#fields()] };
      }
      default:
        if (token.text === '(') {
          return { kind: 'group', pipeline: this.#pipeline(')'), names: this.#fields() };
        }
        if (token.text === 'true' || token.text === 'false') {
          return { kind: 'literal', value: token.text === 'true' };
        }
        if (token.text === 'nil') return { kind: 'literal', value: null };
        if (/^\w/.test(token.text)) return { kind: 'function', name: token.text };
        throw new TemplateError(`unexpected ${JSON.stringify(token.text)} in operand`);
    }
  }

  #fields(): string[] {
    const names: string[] = [];
    while (this.#tokens[this.#at]?.kind === 'field') {
      names.push((this.#tokens[this.#at++] as Token).text.slice(1));
    }
    return names;
  }
}
