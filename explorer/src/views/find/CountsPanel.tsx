import type { CompletenessInfo, Gap } from "../../api/types.ts";
import { Line } from "../../components/Text.tsx";
import { count, dateAndTime, percent } from "../../format.ts";
import { hashOf, place } from "../../location.ts";
import { strings } from "../../strings.ts";
import { BREAKDOWNS, listed, type Breakdown, type Counts } from "./counts.ts";
import { Histogram } from "./Histogram.tsx";
import { showRange } from "./RangeChoice.tsx";

export interface Completeness {
  gaps: Gap[];
  info: CompletenessInfo;
}

interface Properties {
  counts: Counts;
  completeness: Completeness | null;
  isBusy: boolean;
  onFilter: (name: string, value: string, excluded: boolean) => void;
}

export function CountsPanel({ counts, completeness, isBusy, onFilter }: Properties) {
  const watermark = completeness?.info.complete_before ?? null;
  return (
    <section class="counts" aria-label={strings.counts.label} aria-busy={isBusy}>
      <div class="cards">
        <Card name={strings.counts.actions} value={count(counts.total)} />
        <Card name={strings.counts.actors} value={distinct(counts.breakdowns.actor_id)} />
        <Card name={strings.counts.products} value={distinct(counts.breakdowns.resource_product)} />
        <Card name={strings.counts.failures} value={percent(counts.failures, counts.total)} />
      </div>
      <div class="chart">
        <Histogram
          counts={counts}
          gaps={completeness?.gaps ?? []}
          watermarkMs={watermark === null ? null : Date.parse(watermark)}
          onBrush={(sinceMs, beforeMs) => showRange({ sinceMs, beforeMs })}
        />
        <p class="legend">
          <span class="key success">{strings.counts.success}</span>
          <span class="key failure">{strings.counts.failure}</span>
          <CompletenessLine completeness={completeness} />
          {!counts.isComplete && <strong>{strings.counts.since(dateAndTime(counts.countedSince))}</strong>}
        </p>
      </div>
      <div class="breakdowns">
        {BREAKDOWNS.map((name) => (
          <BreakdownList key={name} name={name} breakdown={listed(counts.breakdowns[name])} total={counts.total} onFilter={onFilter} />
        ))}
      </div>
    </section>
  );
}

function Card({ name, value }: { name: string; value: string }) {
  return (
    <div class="card">
      <span class="number">{value}</span>
      <span class="name">{name}</span>
    </div>
  );
}

function distinct({ values, isCut }: Breakdown): string {
  const known = count(values.filter(({ value }) => value !== null).length);
  return isCut ? strings.counts.atLeast(known) : known;
}

function CompletenessLine({ completeness }: { completeness: Completeness | null }) {
  if (completeness === null) return null;
  const { info } = completeness;
  const state = info.gaps > 0 ? strings.counts.gaps(info.gaps) : strings.counts.noGaps;
  const until = info.complete_before === null ? strings.counts.noWatermark : strings.counts.completeBefore(dateAndTime(info.complete_before));
  return (
    <a class={info.gaps > 0 ? "key gaps" : "key complete"} href={hashOf({ view: "trust", params: place.value.params })}>
      {state} · {until}
    </a>
  );
}

interface ListProperties {
  name: (typeof BREAKDOWNS)[number];
  breakdown: Breakdown;
  total: number;
  onFilter: Properties["onFilter"];
}

function BreakdownList({ name, breakdown, total, onFilter }: ListProperties) {
  const label = strings.filters.names[name] ?? name;
  return (
    <div class="breakdown">
      <h2>{strings.counts.breakdowns[name]}</h2>
      <ul>
        {breakdown.values.map(({ value, count: records }) => (
          <li key={value}>
            <button type="button" disabled={value === null} title={strings.filters.include(label)} onClick={() => onFilter(name, value ?? "", false)}>
              <span class="bar" style={{ width: `${(100 * records) / Math.max(1, total)}%` }} />
              <Line value={value ?? strings.filters.none} />
              <span class="number">{count(records)}</span>
            </button>
            {value !== null && (
              <button type="button" class="icon" aria-label={`${strings.filters.exclude(label)}: ${value.slice(0, 100)}`} title={strings.filters.exclude(label)} onClick={() => onFilter(name, value, true)}>
                −
              </button>
            )}
          </li>
        ))}
      </ul>
      {breakdown.others > 0 && <p class="hint">{strings.counts.others(count(breakdown.others))}</p>}
    </div>
  );
}
