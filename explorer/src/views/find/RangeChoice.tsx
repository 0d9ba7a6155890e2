import { useSignal } from "@preact/signals";
import { dateAndTime } from "../../format.ts";
import { change } from "../../location.ts";
import { zone } from "../../preferences.ts";
import { strings } from "../../strings.ts";
import { DEFAULT_PRESET, PRESETS_S, type FindState, type Range } from "./query.ts";

const CUSTOM = "custom";

export function showRange(range: Range): void {
  change({ range: null, since: new Date(range.sinceMs).toISOString(), before: new Date(range.beforeMs).toISOString() });
}

export function RangeChoice({ state, range }: { state: FindState; range: Range }) {
  const isOpen = useSignal(false);
  function choose(value: string): void {
    isOpen.value = value === CUSTOM;
    if (value !== CUSTOM) change({ range: value === DEFAULT_PRESET ? null : value, since: null, before: null });
  }
  return (
    <div class="range">
      <label>
        <span class="visually-hidden">{strings.range.label}</span>
        <select value={state.preset ?? CUSTOM} onChange={(event) => choose(event.currentTarget.value)}>
          {Object.keys(PRESETS_S).map((name) => (
            <option key={name} value={name}>
              {strings.range.last(strings.range.presets[name as keyof typeof strings.range.presets])}
            </option>
          ))}
          <option value={CUSTOM}>{strings.range.custom}</option>
        </select>
      </label>
      {(isOpen.value || state.preset === null) && <Absolute key={`${range.sinceMs} ${range.beforeMs} ${zone.value}`} range={range} />}
      {state.preset !== null && !isOpen.value && (
        <span class="soft wide-only">
          {dateAndTime(range.sinceMs)} – {dateAndTime(range.beforeMs)}
        </span>
      )}
    </div>
  );
}

function Absolute({ range }: { range: Range }) {
  const from = useSignal(fieldText(range.sinceMs));
  const to = useSignal(fieldText(range.beforeMs));
  const isWrong = useSignal(false);
  function apply(event: Event): void {
    event.preventDefault();
    const chosen = { sinceMs: timeIn(from.value), beforeMs: timeIn(to.value) };
    isWrong.value = !(chosen.sinceMs < chosen.beforeMs);
    if (!isWrong.value) showRange(chosen);
  }
  return (
    <form class="absolute" onSubmit={apply}>
      <label>
        {strings.range.from}
        <input type="datetime-local" step="1" required value={from} onInput={(event) => (from.value = event.currentTarget.value)} />
      </label>
      <label>
        {strings.range.to}
        <input type="datetime-local" step="1" required value={to} onInput={(event) => (to.value = event.currentTarget.value)} />
      </label>
      <button type="submit">{strings.range.apply}</button>
      {isWrong.value && (
        <span class="field-error" role="alert">
          {strings.range.wrong}
        </span>
      )}
    </form>
  );
}

/** A time as a field for date and time has it, in the zone of the page. */
function fieldText(atMs: number): string {
  const shift = zone.value === "utc" ? 0 : new Date(atMs).getTimezoneOffset() * 60_000;
  return new Date(atMs - shift).toISOString().slice(0, 19);
}

function timeIn(text: string): number {
  return Date.parse(zone.value === "utc" ? `${text}Z` : text);
}
