/** The report as one page that needs nothing else, and its plots as one picture. */
import { tablesOf, type Table } from './tables.js';
import type { Plot } from './plots.js';
import type { Report } from './types.js';

const STYLE = `
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #1f2933; background: #fff;
  max-width: 58rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.3rem; margin: 3rem 0 .5rem; border-bottom: 2px solid #d9dee4; padding-bottom: .25rem; }
p.note { color: #52606d; margin: .25rem 0 1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 1rem 0; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 1.5rem 0; } figcaption { font-weight: 600; margin-bottom: .5rem; }
figure svg { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; min-width: 60%; }
th, td { padding: .3rem .8rem .3rem 0; text-align: left; border-bottom: 1px solid #e4e7eb; vertical-align: top; }
th { border-bottom: 2px solid #9aa5b1; } td.figure, th.figure { text-align: right; white-space: nowrap; }
code, pre { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .9em; }
pre { background: #f5f7fa; padding: .75rem 1rem; overflow-x: auto; }
nav a { margin-right: 1rem; } a { color: #005a8d; }
@media print { nav { display: none; } h2 { break-after: avoid; } figure, tr { break-inside: avoid; } }`;

/** Text as it stands in an HTML or XML document. */
export function escapeMarkup(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

/** The whole page; it loads nothing and runs nothing, and holds the report's JSON for other programs. */
export async function htmlOf(report: Report): Promise<string> {
  const { plotsOf } = await import('./plots.js');
  const plots = plotsOf(report);
  const tables = tablesOf(report);
  const sections = tables.map((table) =>
    section(
      table,
      plots.filter((plot) => plot.table === table.id),
    ),
  );
  const links = tables.map(({ id, title }) => `<a href="#${id}">${escapeMarkup(title)}</a>`);
  // Nothing of it may end the element, or be taken for markup by whoever reads the page as XML.
  const json = JSON.stringify(report).replaceAll('<', '\\u003c').replaceAll('&', '\\u0026');
  const title = escapeMarkup(report.title);
  return `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>${title}</title>
<style>${STYLE}
</style>
</head>
<body>
<header>
<h1>${title}</h1>
${facts(report)}
<p>To repeat it:</p>
<pre><code>${escapeMarkup(report.command.join(' '))}</code></pre>
<nav aria-label="Contents">${links.join('\n')}</nav>
</header>
<main>
${sections.join('\n')}
</main>
<script type="application/json" id="report">${json}</script>
</body>
</html>
`;
}

function facts({ host, settings, created }: Report): string {
  const list: [string, string][] = [
    ['Measured', created],
    ['Processor', `${host.cpu}, ${host.cpus} in use`],
    ['Memory', `${host.memoryMiB} MiB`],
    ['Kernel', `Linux ${host.kernel}`],
    ['KVM', host.kvm],
    ['Versions', `ClearVM ${host.clearvm}, Node ${host.node}`],
    [
      'Settings',
      `${settings.runs} start-ups, ${settings.workRuns} runs of other work, ${settings.warmup} uncounted before; VMs of ${settings.memoryMiB} MiB with one CPU`,
    ],
  ];
  const items = list.map(([name, text]) => `<dt>${name}</dt><dd>${escapeMarkup(text)}</dd>`);
  return `<dl>\n${items.join('\n')}\n</dl>`;
}

function section(table: Table, plots: readonly Plot[]): string {
  const cell = (tag: 'td' | 'th', text: string, column: number): string => {
    const scope = tag === 'th' ? ' scope="col"' : '';
    const figure = column >= table.texts ? ' class="figure"' : '';
    return `<${tag}${scope}${figure}>${escapeMarkup(text)}</${tag}>`;
  };
  const row = (tag: 'td' | 'th', cells: readonly string[]): string =>
    `<tr>${cells.map((text, column) => cell(tag, text, column)).join('')}</tr>`;
  return `<section aria-labelledby="${table.id}">
<h2 id="${table.id}">${escapeMarkup(table.title)}</h2>
${table.note && `<p class="note">${escapeMarkup(table.note)}</p>`}
${plots.map(figure).join('\n')}
<div class="scroll"><table>
<thead>${row('th', table.head)}</thead>
<tbody>
${table.rows.map((cells) => row('td', cells)).join('\n')}
</tbody>
</table></div>
</section>`;
}

function figure({ title, svg }: Plot): string {
  const name = escapeMarkup(title);
  const labelled = svg.replace('<svg ', `<svg role="img" aria-label="${name}" `);
  return `<figure>\n<figcaption>${name}</figcaption>\n${labelled}\n</figure>`;
}

/** All plots below each other, as one SVG document. */
export async function svgOf(report: Report): Promise<string> {
  const { plotsOf, PLOT_WIDTH } = await import('./plots.js');
  const HEADING = 44;
  let y = 0;
  const parts = plotsOf(report).map(({ title, height, svg }) => {
    const text = `<text x="16" y="${y + 26}" font-weight="600">${escapeMarkup(title)}</text>`;
    const plot = svg.replace('<svg ', `<svg x="0" y="${y + HEADING}" `);
    y += HEADING + height + 16;
    return `${text}\n${plot}`;
  });
  const title = escapeMarkup(report.title);
  return `<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="${title}" width="${PLOT_WIDTH}" height="${y}" viewBox="0 0 ${PLOT_WIDTH} ${y}" font-family="system-ui, DejaVu Sans, sans-serif" font-size="16" fill="#1f2933">
<rect width="100%" height="100%" fill="#fff"/>
${parts.join('\n')}
</svg>
`;
}
