// Go's templates, as docker's --format takes them. What is expected is what text/template of Go prints.
import { describe, expect, test } from 'vitest';

import { compileTemplate } from '../../../src/cli/go-template/evaluate.js';
import { TemplateError } from '../../../src/cli/go-template/parse.js';

const data = {
  Name: 'web',
  Count: 3,
  Ratio: 1.5,
  Running: true,
  Nothing: null,
  Args: ['a', 'b c'],
  None: [],
  Labels: { kind: 'a', 'com.x': 'y' },
  Config: { Cmd: ['sleep', '9'], Entrypoint: null, Labels: { kind: 'b' } },
  Mounts: [
    { Type: 'bind', Source: '/a' },
    { Type: 'volume', Source: '/b' },
  ],
  Label: (name: string) => `<${name}>`,
};

describe('renders', () => {
  test.each([
    ['', ''],
    ['plain { text }', 'plain { text }'],
    ['{{.Name}} {{ .Count }} {{.Ratio}} {{.Running}} {{.Nothing}}', 'web 3 1.5 true <nil>'],
    ['{{.Args}} {{.None}} {{.Config.Entrypoint}} {{.Labels}}', '[a b c] [] [] map[com.x:y kind:a]'],
    ['{{index .Mounts 0}}', '{bind /a}'],
    ['{{json .Args}} {{json .Nothing}} {{.Name | json}}', '["a","b c"] null "web"'],
    ['{{.Config.Labels.kind}} {{.Labels.nosuch}}', 'b <no value>'],
    ['{{index .Labels "com.x"}}|{{index .Labels "none"}}|{{index .Args 1}}', 'y||b c'],
    ['{{(index .Mounts 1).Source}}', '/b'],
    [
      '{{upper .Name}} {{lower "ABC"}} {{title "a bc"}} {{.Name | upper | lower}}',
      'WEB abc A Bc web',
    ],
    ['{{join .Args "-"}} {{index (split "a,b" ",") 1}}', 'a-b c b'],
    ['{{len .Args}} {{len .Name}} {{len .Labels}} {{len .None}}', '2 3 2 0'],
    ['{{pad .Name 1 2}}|{{truncate .Name 2}}|{{slice .Name 1 2}}', ' web  |we|e'],
    ['{{print 1 2 "a" "b" 3}} {{println "x"}}', '1 2ab3 x\n'],
    [
      '{{printf "%s=%d %q %5s|%-5s|%05d %v %.1f%%" "a" 1 "q" "r" "l" 7 true 1.25}}',
      'a=1 "q"     r|l    |00007 true 1.3%',
    ],
    ['{{printf "%.2s" "abc"}} {{printf "%x" 255}} {{printf "%d"}}', 'ab ff %!d(MISSING)'],
    ['{{if .Running}}yes{{else}}no{{end}}', 'yes'],
    ['{{if .None}}a{{else if eq .Name "web" "x"}}b{{else}}c{{end}}', 'b'],
    ['{{if and .Running (not .Nothing) (or .None .Name)}}x{{end}}', 'x'],
    ['{{if gt .Count 2}}>{{end}}{{if le .Count 2}}<{{end}}{{if ne .Count 2}}!{{end}}', '>!'],
    ['{{with .Config}}{{.Cmd}} {{$.Name}}{{end}}', '[sleep 9] web'],
    ['{{with .Nothing}}x{{else}}none{{end}}', 'none'],
    ['{{range .Args}}<{{.}}>{{end}}', '<a><b c>'],
    ['{{range .None}}x{{else}}empty{{end}}{{range .Nothing}}x{{else}}!{{end}}', 'empty!'],
    ['{{range $i, $each := .Args}}{{$i}}{{$each}} {{end}}', '0a 1b c '],
    ['{{range $key, $value := .Labels}}{{$key}}={{$value}};{{end}}', 'com.x=y;kind=a;'],
    ['{{range .Mounts}}{{if eq .Type "bind"}}{{continue}}{{end}}{{.Source}}{{end}}', '/b'],
    ['{{range .Args}}{{.}}{{break}}{{end}}', 'a'],
    ['{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}', '2'],
    ['{{$x := 1}}{{if true}}{{$x := 2}}{{end}}{{$x}}', '1'],
    ['a {{- .Name -}} b {{/* not shown */}}c', 'awebb c'],
    ['{{`raw "x"`}} {{"quote \\" tab\\t"}}', 'raw "x" quote " tab\t'],
    ['{{.Label "kind"}} {{.Label "a" | upper}}', '<kind> <A>'],
    ['{{html "<&>"}} {{urlquery "a b"}}', '&lt;&amp;&gt; a+b'],
  ])('%s', (template, text) => {
    expect(compileTemplate(template)(data)).toBe(text);
  });
});

describe('says what is wrong', () => {
  test.each([
    ['{{.Name', /unclosed action/],
    ['{{if .Name}}', /unexpected EOF/],
    ['{{end}}', /unexpected \{\{end\}\}/],
    ['{{frob .Name}}', /function "frob" not defined/],
    ['{{if true}}{{frob}}{{end}}', /function "frob" not defined/],
    ['{{"abc}}', /unterminated quoted string/],
    ['{{.Name | }}', /missing value for command/],
    ['{{.Name | .Count}}', /can't give argument to non-function/],
    ['{{(.Name}}', /unexpected/],
    ['{{$x}}', /undefined variable "\$x"/],
    ['{{.Nosuch}}', /there is no \.Nosuch/],
    ['{{.Nothing.More}}', /nil pointer evaluating \.More/],
    ['{{.Name.More}}', /there is no \.Name\.More/],
    ['{{index .Args 9}}', /index out of range: 9/],
    ['{{index .Args "x"}}', /cannot index/],
    ['{{upper .Count}}', /upper/],
    ['{{lt .Name 3}}', /incompatible types/],
    ['{{range .Name}}{{end}}', /can't iterate over web/],
    ['{{len .Count}}', /len of type/],
    ['{{;}}', /unexpected ";"/],
  ])('%s', (template, message) => {
    expect(() => compileTemplate(template)(data)).toThrow(TemplateError);
    expect(() => compileTemplate(template)(data)).toThrow(message);
  });

  test('nothing but TemplateError comes of random templates', () => {
    const parts = [
      '{{',
      '}}',
      '.Name',
      ' ',
      'range',
      'if',
      'else',
      'end',
      '|',
      '(',
      ')',
      '$x',
      ':=',
      '"',
      'json',
      '{{-',
      '.',
      '1',
      'with',
      'index',
    ];
    let seed = 1;
    const next = (): number => (seed = (seed * 48_271) % 2_147_483_647);
    for (let i = 0; i < 20_000; i++) {
      const template = Array.from(
        { length: (next() % 12) + 1 },
        () => parts[next() % parts.length],
      ).join('');
      try {
        compileTemplate(template)(data);
      } catch (error) {
        if (!(error instanceof TemplateError)) throw new Error(template, { cause: error });
      }
    }
  });
});
