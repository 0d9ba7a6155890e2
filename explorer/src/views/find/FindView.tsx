// Find records: who did what, when, where and how. The state is in the address.

import { useComputed, useSignal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { get, logPath } from "../../api/client.ts";
import type { CompletenessInfo, Gap } from "../../api/types.ts";
import { ErrorNotice } from "../../components/ErrorNotice.tsx";
import { isTyping } from "../../keyboard.ts";
import { loading } from "../../loading.ts";
import { change, place } from "../../location.ts";
import { currentAccount } from "../../Shell.tsx";
import { strings } from "../../strings.ts";
import { countRecords, type Counts } from "./counts.ts";
import { CountsPanel, type Completeness } from "./CountsPanel.tsx";
import { FilterBar } from "./FilterBar.tsx";
import { apiQuery, rangeOf, stateIn, withValue, type FindState } from "./query.ts";
import { RangeChoice } from "./RangeChoice.tsx";
import { RecordDrawer } from "./RecordDrawer.tsx";
import { RecordList } from "./RecordList.tsx";
import { RecordPages } from "./recordPages.ts";
import { ExportMenu, SavedViewsMenu } from "./ViewMenus.tsx";

export function FindView() {
  const account = currentAccount();
  const params = place.value.params;
  const opened = params.get("record");
  const reloads = useSignal(0);
  const state = stateIn(params, account);
  // What is open in the drawer does not change the view.
  const key = JSON.stringify([account, state, reloads.value]);
  const view = useMemo(() => viewOf(account, state), [key]);
  useEffect(() => () => view.pages.close(), [view]);

  const counts = useSignal(loading<Counts>()).value;
  const completeness = useSignal(loading<Completeness>()).value;
  useEffect(() => {
    completeness.load((signal) => readCompleteness(account, view.query, signal));
    counts.load((signal) => countRecords(account, view.range, view.query, signal));
  }, [view]);

  useEffect(() => {
    function onKey(event: KeyboardEvent): void {
      if (isTyping(event)) return;
      if (event.key === "Escape" && place.value.params.has("record")) change({ record: null });
      else if (event.key === "r") reloads.value += 1;
    }
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);

  function filter(name: string, value: string, excluded: boolean): void {
    change(withValue(state.filters, name, value, excluded));
  }

  const suggestions = useComputed(() => suggestionsOf(counts.result.value)).value;
  return (
    <div class="find" data-drawer={opened !== null}>
      <h1 class="visually-hidden">{strings.nav.find}</h1>
      <div class="controls">
        <RangeChoice state={state} range={view.range} />
        <FilterBar state={state} suggestions={suggestions} />
        <div class="menus">
          <button type="button" onClick={() => (reloads.value += 1)}>
            {strings.list.newer}
          </button>
          <SavedViewsMenu />
          <ExportMenu account={account} query={view.query} />
        </div>
      </div>
      <CountsArea counts={counts} completeness={completeness.result.value} onFilter={filter} />
      <RecordList pages={view.pages} selected={opened} onOpen={(record) => change({ record: record.id }, { replace: opened !== null })} />
      {opened !== null && <RecordDrawer account={account} id={opened} onClose={() => change({ record: null })} onFilter={filter} />}
    </div>
  );
}

interface AreaProperties {
  counts: ReturnType<typeof loading<Counts>>;
  completeness: Completeness | null;
  onFilter: (name: string, value: string, excluded: boolean) => void;
}

function CountsArea({ counts, completeness, onFilter }: AreaProperties) {
  const found = counts.result.value;
  return (
    <div class="counts-area">
      <ErrorNotice error={counts.error.value} onRetry={() => counts.again()} />
      {found !== null && <CountsPanel counts={found} completeness={completeness} isBusy={counts.isBusy.value} onFilter={onFilter} />}
    </div>
  );
}

function viewOf(account: string, state: FindState) {
  const range = rangeOf(state, Date.now());
  const query = apiQuery(range, state.filters);
  return { range, query, pages: new RecordPages(account, query) };
}

async function readCompleteness(account: string, query: [string, string][], signal: AbortSignal): Promise<Completeness> {
  const range = query.filter(([name]) => name === "since" || name === "before");
  const { result, result_info: info } = await get<Gap[], CompletenessInfo>(logPath(account, "/completeness"), range, signal);
  return { gaps: result, info };
}

function suggestionsOf(counts: Counts | null): Record<string, string[]> {
  if (counts === null) return {};
  return Object.fromEntries(
    Object.entries(counts.breakdowns).map(([name, { values }]) => [name, values.flatMap(({ value }) => value ?? [])]),
  );
}
