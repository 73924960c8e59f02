import type { Signal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import uPlot from 'uplot';
import { dark } from './prefs.js';

/** A line of a chart: its name, its colour as a custom property, and whether it is drawn dashed. */
export interface Line {
  name: string;
  colour: string;
  dashed?: boolean;
  fill?: boolean;
}

/** In pixels; the style sheet keeps as much room for it. */
const chartHeight = 168;

export type Columns = (number | null)[][];

/** Between the plot and the right edge, in pixels. */
const rightRoom = 18;

const ten = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000];

/** Where a value has none beside it: no line leads there, so it is shown as a point. */
const alone = (values: ArrayLike<number | null | undefined>): number[] =>
  Array.from(values, (_, i) => i).filter((i) => values[i] != null && values[i - 1] == null && values[i + 1] == null);

/**
 * A chart over time of one or more lines; data's first column is the time, in seconds. Charts
 * with one at share where the pointer is: the index there, or null.
 */
export function Chart({ data, lines, at, label, nothing, unit, from, to }: {
  data: Columns;
  lines: readonly Line[];
  at: Signal<number | null>;
  label: string;
  /** What to say where there is no value in all that time. */
  nothing: string;
  unit: (value: number) => string;
  from: number;
  to: number;
}) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot>();
  const newest = useRef({ data, from, to });
  newest.current = { data, from, to };

  useEffect(() => {
    const element = box.current!;
    const style = getComputedStyle(element);
    const colour = (name: string) => style.getPropertyValue(name).trim();
    // Custom properties made by light-dark() are not colours yet: a probe resolves them.
    const probe = document.createElement('i');
    element.append(probe);
    const resolved = (name: string) => {
      probe.style.color = `var(${name})`;
      return getComputedStyle(probe).color || colour(name);
    };
    const text = resolved('--plot-text');
    const grid = resolved('--plot-grid');
    const font = `11px ${style.fontFamily}`;
    const made = new uPlot(
      {
        width: element.clientWidth || 300,
        height: chartHeight,
        padding: [8, rightRoom, 0, 0],
        legend: { show: false },
        cursor: {
          y: false,
          points: { size: 7 },
          drag: { x: false, y: false },
          sync: { key: 'overview', setSeries: false, scales: ['x', null] },
        },
        scales: {
          x: { time: true, range: () => [newest.current.from, newest.current.to] },
          y: { range: (_, __, max) => [0, Math.max(max * 1.15, 1)] },
        },
        axes: [
          {
            stroke: text, font, grid: { show: false }, ticks: { show: false }, size: 22, gap: 4, space: 70,
            values: (u, ticks) => {
              const letters = newest.current.to - newest.current.from > 240 ? 5 : 8;
              // A label stands around its tick: the last has none where the edge would cut it.
              const most = u.bbox.width / devicePixelRatio + rightRoom - letters * 3.3;
              return ticks.map((t) => (u.valToPos(t, 'x') > most ? '' : new Date(t * 1000).toTimeString().slice(0, letters)));
            },
          },
          {
            stroke: text, font, grid: { stroke: grid, width: 1 }, ticks: { show: false }, size: 54, gap: 6, space: 34, incrs: ten,
            values: (_, ticks) => ticks.map(unit),
          },
        ],
        series: [
          {},
          ...lines.map((line) => {
            const stroke = resolved(line.colour);
            return {
              label: line.name,
              stroke,
              width: 1.5,
              dash: line.dashed ? [5, 3] : undefined,
              fill: line.fill ? stroke.replace(/^rgb\((.*)\)$/, 'rgba($1, 0.12)') : undefined,
              points: { show: true, size: 4, width: 0, fill: stroke, filter: (u, series) => alone(u.data[series]!) },
              spanGaps: false,
            } satisfies uPlot.Series;
          }),
        ],
        hooks: {
          setCursor: [
            (u) => {
              const index = u.cursor.idx ?? null;
              const inside = (u.cursor.left ?? -1) >= 0;
              const next = inside ? index : null;
              if (at.value !== next) at.value = next;
            },
          ],
        },
      },
      newest.current.data as uPlot.AlignedData,
      element,
    );
    probe.remove();
    made.root.setAttribute('aria-hidden', 'true');
    plot.current = made;
    const watch = new ResizeObserver(() => {
      if (element.clientWidth) made.setSize({ width: element.clientWidth, height: chartHeight });
    });
    watch.observe(element);
    return () => {
      watch.disconnect();
      made.destroy();
      plot.current = undefined;
    };
  }, [dark.value, lines]);

  useEffect(() => {
    plot.current?.setData(data as uPlot.AlignedData);
  }, [data]);

  const empty = data.slice(1).every((column) => column.every((value, i) => value === null || data[0]![i]! < from));
  return (
    <div ref={box} class="plot" role="img" aria-label={label}>
      {empty && <p class="plot-empty">{nothing}</p>}
    </div>
  );
}
