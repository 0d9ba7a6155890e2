import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import type { Gap } from "../../api/types.ts";
import { count, dateAndTime } from "../../format.ts";
import { theme, zone } from "../../preferences.ts";
import { strings } from "../../strings.ts";
import type { Counts } from "./counts.ts";

const HEIGHT = 132;
const BRUSH_PX_MIN = 5;

interface Properties {
  counts: Counts;
  gaps: Gap[];
  watermarkMs: number | null;
  onBrush: (sinceMs: number, beforeMs: number) => void;
}

/** Stacked bars of successes and failures, with what is missing as a band above them. Dragging chooses a range. */
export function Histogram({ counts, gaps, watermarkMs, onBrush }: Properties) {
  const element = useRef<HTMLDivElement>(null);
  const isDark = theme.value;
  useEffect(() => {
    const parent = element.current;
    if (parent === null) return;
    const plot = new uPlot(optionsFor(parent, counts, gaps, watermarkMs, onBrush), dataOf(counts), parent);
    const observer = new ResizeObserver(() => plot.setSize({ width: parent.clientWidth, height: HEIGHT }));
    observer.observe(parent);
    return () => {
      observer.disconnect();
      plot.destroy();
    };
  }, [counts, gaps, watermarkMs, isDark, zone.value]);
  return (
    <figure class="histogram">
      <figcaption class="visually-hidden">{describe(counts)}</figcaption>
      <div ref={element} class="plot" title={strings.counts.histogramHint} />
    </figure>
  );
}

function dataOf({ buckets }: Counts): uPlot.AlignedData {
  return [
    buckets.map((each) => each.sinceMs / 1000),
    // Stacked: the taller bars are drawn first.
    buckets.map((each) => each.success + each.failure),
    buckets.map((each) => each.failure),
  ];
}

function describe(counts: Counts): string {
  const { success, failure, histogram } = strings.counts;
  return `${histogram}: ${count(counts.total - counts.failures)} ${success}, ${count(counts.failures)} ${failure}`;
}

function optionsFor(
  parent: HTMLElement,
  counts: Counts,
  gaps: Gap[],
  watermarkMs: number | null,
  onBrush: Properties["onBrush"],
): uPlot.Options {
  const colour = (name: string): string => getComputedStyle(parent).getPropertyValue(name);
  const bars = uPlot.paths.bars?.({ size: [0.9, 60], align: 1 });
  const axis: uPlot.Axis = {
    stroke: colour("--text-soft"),
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { show: false },
    font: "11px system-ui, sans-serif",
  };
  const series = (label: string, fill: string): uPlot.Series => ({
    label,
    fill: colour(fill),
    width: 0,
    points: { show: false },
    ...(bars ? { paths: bars } : {}),
  });
  return {
    width: parent.clientWidth,
    height: HEIGHT,
    padding: [14, 8, 0, 0],
    ms: 1e-3,
    tzDate: (at) => (zone.value === "utc" ? uPlot.tzDate(new Date(at * 1000), "Etc/UTC") : new Date(at * 1000)),
    legend: { show: false },
    cursor: { drag: { x: true, y: false, setScale: false }, points: { show: false }, y: false },
    scales: {
      x: { range: [counts.range.sinceMs / 1000, counts.range.beforeMs / 1000] },
      y: { range: (_plot, _low, high) => [0, Math.max(1, high * 1.05)] },
    },
    axes: [axis, { ...axis, size: 48, values: (_plot, values) => values.map(shortCount) }],
    series: [{}, series(strings.counts.success, "--success-bar"), series(strings.counts.failure, "--failure-bar")],
    hooks: {
      draw: [(plot) => drawBand(plot, gaps, watermarkMs, colour)],
      setCursor: [(plot) => showCursor(plot, counts)],
      setSelect: [
        (plot) => {
          if (plot.select.width < BRUSH_PX_MIN) return;
          const at = (pixel: number): number => Math.round(plot.posToVal(pixel, "x") * 1000);
          onBrush(at(plot.select.left), at(plot.select.left + plot.select.width));
        },
      ],
    },
  };
}

function shortCount(value: number): string {
  if (!Number.isInteger(value)) return "";
  return new Intl.NumberFormat(navigator.language, { notation: "compact" }).format(value);
}

/** Gaps are red in the band; what is after the watermark, and may still change, is hatched. */
function drawBand(plot: uPlot, gaps: Gap[], watermarkMs: number | null, colour: (name: string) => string): void {
  const { ctx, bbox } = plot;
  const height = 5 * devicePixelRatio;
  const top = bbox.top - height - 3 * devicePixelRatio;
  const xOf = (atMs: number): number =>
    Math.min(bbox.left + bbox.width, Math.max(bbox.left, plot.valToPos(atMs / 1000, "x", true)));
  const end = bbox.left + bbox.width;
  const complete = watermarkMs === null ? bbox.left : xOf(watermarkMs);
  ctx.save();
  ctx.fillStyle = colour("--complete");
  ctx.fillRect(bbox.left, top, complete - bbox.left, height);
  ctx.fillStyle = colour("--line");
  ctx.fillRect(complete, top, end - complete, height);
  ctx.fillStyle = colour("--failure-bar");
  for (const gap of gaps) {
    const from = gap.from === null ? bbox.left : xOf(Date.parse(gap.from));
    const to = gap.to === null ? end : xOf(Date.parse(gap.to));
    ctx.fillRect(from, top, Math.max(3 * devicePixelRatio, to - from), height);
  }
  ctx.restore();
}

function showCursor(plot: uPlot, counts: Counts): void {
  const bucket = plot.cursor.idx == null ? undefined : counts.buckets[plot.cursor.idx];
  plot.over.title =
    bucket === undefined
      ? strings.counts.histogramHint
      : `${dateAndTime(bucket.sinceMs)}\n${count(bucket.success)} ${strings.counts.success}, ${count(bucket.failure)} ${strings.counts.failure}`;
}
