/** The report's plots, drawn to SVG by echarts: no browser, no network, no script in the result. */
import { BarChart, LineChart, ScatterChart } from 'echarts/charts';
import {
  GridComponent,
  LegendComponent,
  MarkLineComponent,
  TitleComponent,
} from 'echarts/components';
import { init, use, type EChartsCoreOption } from 'echarts/core';
import { SVGRenderer } from 'echarts/renderers';

import { TIMELINE_POINTS } from '../../vm/timings.js';
import type { Report } from './types.js';

use([
  ...[BarChart, LineChart, ScatterChart, SVGRenderer],
  ...[GridComponent, LegendComponent, MarkLineComponent, TitleComponent],
]);

export interface Plot {
  /** The table that has its figures. */
  table: string;
  title: string;
  height: number;
  svg: string;
}

export const PLOT_WIDTH = 860;
const ROW = 34;
const MIB = 2 ** 20;
const FONT = 'system-ui, DejaVu Sans, sans-serif'; // without quotes: echarts writes it into an attribute as it is
const INK = '#1f2933';
const FAINT = '#d9dee4';
/** Okabe and Ito's colours, which the colour-blind can tell apart, the darker ones first; what is ours is blue. */
const OURS = ['#0072b2', '#56b4e9', '#004c78'];
const OTHERS = ['#d55e00', '#009e73', '#cc79a7', '#8a6d00', '#555555', '#e69f00', '#7a3e00'];
const SYMBOLS = ['circle', 'rect', 'triangle', 'diamond', 'roundRect', 'pin', 'arrow'];

interface Look {
  label: string;
  color: string;
  symbol: string;
}

/** One colour and one mark for a runtime in all plots. */
function looksOf(report: Report): (id: string) => Look {
  const looks = new Map<string, Look>();
  let ours = 0;
  let others = 0;
  for (const { id, label } of report.runtimes) {
    const color = id.startsWith('clearvm')
      ? OURS[ours++ % OURS.length]
      : OTHERS[others++ % OTHERS.length];
    const symbol = SYMBOLS[looks.size % SYMBOLS.length] as string;
    looks.set(id, { label, color: color as string, symbol });
  }
  return (id) => looks.get(id) ?? { label: id, color: INK, symbol: 'circle' };
}

/** Every plot that the report has figures for. */
export function plotsOf(report: Report): Plot[] {
  const look = looksOf(report);
  return [
    ...bootPlots(report, look),
    ...memoryPlot(report, look),
    ...sizePlot(report),
    ...densityPlots(report, look),
    ...ioPlot(report, look),
    ...cpuPlot(report, look),
    ...isolationPlots(report, look),
  ];
}

function draw(table: string, title: string, height: number, option: EChartsCoreOption): Plot {
  const chart = init(null, null, { renderer: 'svg', ssr: true, width: PLOT_WIDTH, height });
  try {
    chart.setOption({
      animation: false,
      textStyle: { fontFamily: FONT, fontSize: 13, color: INK },
      ...option,
    });
    return { table, title, height, svg: chart.renderToSVGString() };
  } finally {
    chart.dispose();
  }
}

const axisText = { axisLabel: { color: INK, fontSize: 13 }, nameTextStyle: { color: INK } };
const valueAxis = (name: string, more: object = {}) => ({
  type: 'value',
  name,
  nameLocation: 'middle',
  nameGap: 30,
  splitLine: { lineStyle: { color: FAINT } },
  ...axisText,
  ...more,
});
const categoryAxis = (data: (string | number)[], more: object = {}) => ({
  type: 'category',
  data,
  axisTick: { show: false },
  axisLine: { lineStyle: { color: INK } },
  ...axisText,
  ...more,
});
const legend = { top: 0, itemGap: 26, left: 'center', textStyle: { color: INK, fontSize: 13 } };
// Its guess of a text's width falls short of some fonts: room for labels on the left.
const grid = {
  left: 40,
  right: 36,
  top: 40,
  bottom: 40,
  outerBoundsMode: 'same',
  outerBoundsContain: 'axisLabel',
};

/** "0.42", "13.4", "1,250": three digits that count. */
export function short(value: number): string {
  if (value >= 100) return Math.round(value).toLocaleString('en-US');
  return Number(value.toPrecision(3)).toString();
}

/** Bars from left to right, one for each name, with its figure behind it. */
function bars(
  table: string,
  title: string,
  unit: string,
  rows: { label: string; value: number; color: string }[],
  more: object = {},
): Plot {
  return draw(table, title, 70 + ROW * rows.length, {
    grid: { ...grid, top: 10, right: 90 },
    xAxis: valueAxis(unit),
    yAxis: categoryAxis(
      rows.map(({ label }) => label),
      { inverse: true },
    ),
    series: [
      {
        type: 'bar',
        barWidth: '62%',
        data: rows.map(({ value, color }) => ({ value, itemStyle: { color } })),
        label: {
          show: true,
          position: 'right',
          color: INK,
          formatter: ({ value }: { value: number }) => short(value),
        },
        ...more,
      },
    ],
  });
}

function bootPlots({ boot = [] }: Report, look: (id: string) => Look): Plot[] {
  if (boot.length === 0) return [];
  const sorted = [...boot].sort((a, b) => a.total.median - b.total.median);
  const points = (pick: (total: (typeof boot)[number]['total']) => number) =>
    sorted.map(({ runtime, total }, row) => ({
      value: [pick(total), row],
      itemStyle: { color: look(runtime).color },
    }));
  const plot = draw('boot', 'Start-up time of containers and VMs', 110 + ROW * sorted.length, {
    legend,
    grid: { ...grid, right: 60 },
    xAxis: valueAxis('ms, logarithmic', { type: 'log' }),
    yAxis: categoryAxis(
      sorted.map(({ runtime }) => look(runtime).label),
      { inverse: true, splitLine: { show: true, lineStyle: { color: FAINT } } },
    ),
    series: [
      {
        name: 'median',
        type: 'scatter',
        symbolSize: 13,
        data: points(({ median }) => median),
        itemStyle: { color: INK },
        z: 3,
        label: {
          show: true,
          position: 'top',
          distance: 3,
          color: INK,
          formatter: ({ value }: { value: number[] }) => short(value[0] ?? 0),
        },
      },
      {
        name: 'p99',
        type: 'scatter',
        symbol: 'diamond',
        symbolSize: 9,
        data: points(({ p99 }) => p99),
        itemStyle: { color: INK },
        markLine: {
          silent: true,
          symbol: 'none',
          label: { show: false },
          data: sorted.map(({ runtime, total }, row) => [
            {
              coord: [total.min, row],
              lineStyle: { color: look(runtime).color, type: 'solid', width: 2 },
            },
            { coord: [total.p99, row] },
          ]),
        },
      },
    ],
  });
  return [plot, ...timelinePlot(sorted, look)];
}

/** Only of those whose steps are known. */
function timelinePlot(boot: NonNullable<Report['boot']>, look: (id: string) => Look): Plot[] {
  const rows = boot
    .filter(({ intervals }) => intervals.length > 2)
    .map(({ runtime, intervals }) => {
      const last = intervals.findIndex(({ point }) => point === 'first.output');
      return { runtime, intervals: intervals.slice(0, last + 1) };
    });
  if (rows.length === 0) return [];
  const names = [...new Set(rows.flatMap(({ intervals }) => intervals.map(({ point }) => point)))];
  const order: readonly string[] = TIMELINE_POINTS;
  names.sort((a, b) => order.indexOf(a) - order.indexOf(b));
  const palette = [...OURS, ...OTHERS, '#9aa5b1', '#4b0082', '#5c940d', '#a61e4d', '#f08c00'];
  const title = 'Where the start-up goes: median of each step, named by the point at its end';
  const plot = draw('timeline', title, 170 + ROW * rows.length, {
    legend: { ...legend, itemWidth: 14, itemGap: 16, width: PLOT_WIDTH - 80 },
    grid: { ...grid, top: 90 },
    xAxis: valueAxis('ms'),
    yAxis: categoryAxis(
      rows.map(({ runtime }) => look(runtime).label),
      { inverse: true },
    ),
    series: names.map((name, index) => ({
      name,
      type: 'bar',
      stack: 'steps',
      barWidth: '62%',
      itemStyle: { color: palette[index % palette.length], borderColor: '#fff', borderWidth: 1 },
      data: rows.map(
        ({ intervals }) => intervals.find(({ point }) => point === name)?.ms.median ?? 0,
      ),
    })),
  });
  return [plot];
}

/** Lines with the marks of their runtimes. */
function lines(
  table: string,
  title: string,
  axes: { x: object; y: string },
  rows: { look: Look; data: unknown[]; dashed?: boolean }[],
): Plot {
  return draw(table, title, 380, {
    legend: { ...legend, itemWidth: 34 },
    grid: { ...grid, top: 60 },
    xAxis: axes.x,
    yAxis: valueAxis(axes.y, { nameGap: 52 }),
    series: rows.map(({ look: { label, color, symbol }, data, dashed = false }) => ({
      name: label,
      type: 'line',
      data,
      symbol,
      symbolSize: 8,
      itemStyle: { color },
      lineStyle: { color, width: 2, type: dashed ? 'dashed' : 'solid' },
    })),
  });
}

function memoryPlot({ memory = [] }: Report, look: (id: string) => Look): Plot[] {
  const single = memory.filter(({ containers }) => containers === 1);
  if (single.length === 0) return [];
  const sizes = [...new Set(single.map(({ vmMiB }) => vmMiB))].sort((a, b) => a - b);
  const rows = [...new Set(single.map(({ runtime }) => runtime))].map((runtime) => {
    const own = single.filter((result) => result.runtime === runtime);
    // A container has no size: what it takes is the same beside any.
    const flat = own.length === 1 ? own[0]?.pssMiB : undefined;
    const at = (size: number) => own.find(({ vmMiB }) => vmMiB === size)?.pssMiB ?? null;
    return {
      look: look(runtime),
      data: sizes.map((size) => flat ?? at(size)),
      dashed: flat !== undefined,
    };
  });
  const x = categoryAxis(sizes, {
    name: 'VM size, MiB',
    nameLocation: 'middle',
    nameGap: 30,
    boundaryGap: false,
  });
  const title =
    'Memory of one idle container against VM size (dashed: containers, which have none)';
  return [lines('memory', title, { x, y: 'Pss, MiB' }, rows)];
}

function sizePlot({ sizes }: Report): Plot[] {
  if (sizes.length === 0) return [];
  const rows = sizes.map(({ name, bytes }) => ({
    label: name,
    value: bytes / MIB,
    color: (name.startsWith('ClearVM') ? OURS[0] : OTHERS[4]) as string,
  }));
  return [bars('sizes', 'Size on the disk', 'MiB', rows)];
}

function densityPlots({ density = [] }: Report, look: (id: string) => Look): Plot[] {
  if (density.length === 0) return [];
  type Point = (typeof density)[number]['points'][number];
  const plot = (title: string, y: string, pick: (point: Point) => number): Plot =>
    lines(
      'density',
      title,
      { x: valueAxis('containers'), y },
      density.map(({ runtime, points }) => ({
        look: look(runtime),
        data: points.map((point) => [point.containers, pick(point)]),
      })),
    );
  return [
    plot('Density: memory of idle containers together', 'Pss, MiB', ({ pssMiB }) => pssMiB),
    plot('Density: start-up of the n-th container', 'ms', ({ startMs }) => startMs),
  ];
}

function grouped(
  table: string,
  title: string,
  unit: string,
  categories: string[],
  rows: { look: Look; data: (number | null)[] }[],
): Plot {
  return draw(table, title, 400, {
    legend,
    grid: { ...grid, top: 50 },
    xAxis: categoryAxis(categories),
    yAxis: valueAxis(unit, { nameGap: 42 }),
    series: rows.map(({ look: { label, color }, data }, index) => ({
      name: label,
      type: 'bar',
      data,
      itemStyle: { color },
      // What the host does is 1.
      ...(index === 0
        ? {
            markLine: {
              silent: true,
              symbol: 'none',
              label: { show: false },
              lineStyle: { color: INK, type: 'dashed' },
              data: [{ yAxis: 1 }],
            },
          }
        : {}),
    })),
  });
}

function ioPlot({ io = [] }: Report, look: (id: string) => Look): Plot[] {
  const host = io.filter(({ runtime }) => runtime === 'host');
  const runtimes = [...new Set(io.map(({ runtime }) => runtime))].filter((id) => id !== 'host');
  if (host.length === 0 || runtimes.length === 0) return [];
  const rows = runtimes.map((runtime) => ({
    look: look(runtime),
    data: host.map(({ where, figure, ms }) => {
      const own = io.find(
        (result) =>
          result.runtime === runtime && result.where === where && result.figure === figure,
      );
      return own ? Number((ms.median / own.ms.median).toPrecision(3)) : null;
    }),
  }));
  const categories = host.map(({ where, figure }) => `${figure}\n${where}`);
  return [grouped('io', 'Speed of files against the host', 'host = 1', categories, rows)];
}

function cpuPlot({ cpu = [] }: Report, look: (id: string) => Look): Plot[] {
  const rows = cpu.map(({ runtime, slowdown }) => ({
    ...look(runtime),
    value: slowdown,
  }));
  return rows.length > 0 ? [bars('cpu', 'A loop: time against the host', 'host = 1', rows)] : [];
}

function isolationPlots({ isolation = [] }: Report, look: (id: string) => Look): Plot[] {
  return (['cpu', 'io'] as const).flatMap((victim) => {
    const own = isolation.filter((result) => result.victim === victim);
    if (own.length === 0) return [];
    const neighbours = [...new Set(own.map(({ neighbour }) => neighbour))];
    const rows = [...new Set(own.map(({ runtime }) => runtime))].map((runtime) => ({
      look: look(runtime),
      data: neighbours.map(
        (neighbour) =>
          own.find((result) => result.runtime === runtime && result.neighbour === neighbour)
            ?.slowdown ?? null,
      ),
    }));
    const what = victim === 'cpu' ? 'computes' : 'works with files';
    const title = `A container that ${what}, beside a neighbour: time against being alone`;
    return [grouped('isolation', title, 'alone = 1', neighbours, rows)];
  });
}
