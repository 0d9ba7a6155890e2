// Watch: records as they arrive, and what the alert rules raised.

import { useEffect, useMemo } from "preact/hooks";
import type { AuditRecord } from "../../api/types.ts";
import { Line } from "../../components/Text.tsx";
import { clock, count } from "../../format.ts";
import { change, go, place } from "../../location.ts";
import { currentAccount } from "../../Shell.tsx";
import { strings } from "../../strings.ts";
import { apiQuery, stateIn, withValue } from "../find/query.ts";
import { FilterBar } from "../find/FilterBar.tsx";
import { RecordDrawer } from "../find/RecordDrawer.tsx";
import { actionText, actorText, resourceText } from "../find/recordText.ts";
import { Alerts } from "./Alerts.tsx";
import { Tail } from "./tail.ts";

export function WatchView() {
  const account = currentAccount();
  const opened = place.value.params.get("record");
  const state = stateIn(place.value.params, account);
  return (
    <div class="page watch" data-drawer={opened !== null}>
      <h1 class="visually-hidden">{strings.nav.watch}</h1>
      <Alerts account={account} />
      <LiveTail account={account} />
      {opened !== null && (
        <RecordDrawer
          account={account}
          id={opened}
          onClose={() => change({ record: null })}
          onFilter={(name, value, excluded) => {
            const params = new URLSearchParams({ account });
            for (const [key, values] of Object.entries(withValue(state.filters, name, value, excluded))) {
              for (const each of values ?? []) params.append(key, each);
            }
            go({ view: "find", params });
          }}
        />
      )}
    </div>
  );
}

function LiveTail({ account }: { account: string }) {
  const state = stateIn(place.value.params, account);
  const filters = JSON.stringify(state.filters);
  const tail = useMemo(() => new Tail(account, apiQuery({ sinceMs: 0, beforeMs: 0 }, state.filters).slice(2)), [account, filters]);
  useEffect(() => () => tail.close(), [tail]);
  const backlog = tail.waiting.value.length;
  return (
    <section>
      <div class="controls">
        <h2>{strings.watch.tail}</h2>
        <button type="button" aria-pressed={tail.isPaused} onClick={() => (tail.isPaused.value ? tail.resume() : tail.pause())}>
          {tail.isPaused.value ? strings.watch.resume : strings.watch.pause}
        </button>
        <span role="status">{backlog > 0 && strings.watch.backlog(count(backlog))}</span>
        <FilterBar state={state} suggestions={{}} />
      </div>
      {!tail.isConnected.value && <p class="notice">{strings.watch.lost}</p>}
      {tail.shown.value.length === 0 && <p class="empty">{strings.watch.waiting}</p>}
      <ol class="tail">
        {tail.shown.value.map((record) => (
          <TailRow key={record.id} record={record} />
        ))}
      </ol>
    </section>
  );
}

function TailRow({ record }: { record: AuditRecord }) {
  return (
    <li>
      <button type="button" onClick={() => change({ record: record.id })}>
        <span class="time">{clock(record.action.time)}</span>
        <span class={`tag ${record.action.result}`}>{strings.counts[record.action.result]}</span>
        <Line value={actorText(record)} />
        <Line value={actionText(record)} />
        <Line value={resourceText(record)} />
      </button>
    </li>
  );
}
