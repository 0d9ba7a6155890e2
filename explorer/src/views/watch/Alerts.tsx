import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { ApiError, get, logPath, send } from "../../api/client.ts";
import type { Alert, AlertDetails } from "../../api/types.ts";
import { ErrorNotice, textOf } from "../../components/ErrorNotice.tsx";
import { Line, Text } from "../../components/Text.tsx";
import { toast } from "../../components/toasts.tsx";
import { dateAndTime } from "../../format.ts";
import { loading } from "../../loading.ts";
import { change } from "../../location.ts";
import { may } from "../../session.ts";
import { strings } from "../../strings.ts";
import { ALL_ACCOUNTS } from "../find/query.ts";

const SHOWN = 50;

interface Page {
  alerts: Alert[];
  after: string | null;
}

export function Alerts({ account }: { account: string }) {
  const showsAll = useSignal(false);
  const found = useSignal(loading<Page>()).value;
  const canRead = may("alerts:read") && account !== ALL_ACCOUNTS;
  useEffect(() => {
    if (canRead) found.load((signal) => readAlerts(account, showsAll.value, null, signal));
  }, [account, canRead, showsAll.value]);

  function older(page: Page): void {
    found.load(async (signal) => {
      const next = await readAlerts(account, showsAll.value, page.after, signal);
      return { alerts: [...page.alerts, ...next.alerts], after: next.after };
    });
  }

  const page = found.result.value;
  return (
    <section>
      <div class="controls">
        <h2>{strings.watch.alerts}</h2>
        <label>
          {strings.watch.state}
          <select value={showsAll.value ? "all" : "open"} onChange={(event) => (showsAll.value = event.currentTarget.value === "all")}>
            <option value="open">{strings.watch.open}</option>
            <option value="all">{strings.watch.all}</option>
          </select>
        </label>
      </div>
      {!may("alerts:read") && <p class="notice">{strings.watch.denied}</p>}
      {may("alerts:read") && account === ALL_ACCOUNTS && <p class="notice">{strings.watch.oneAccount}</p>}
      <ErrorNotice error={found.error.value} onRetry={() => found.again()} />
      {canRead && page !== null && page.alerts.length === 0 && <p class="empty">{strings.watch.noAlerts}</p>}
      {canRead && page !== null && (
        <ol class="alerts">
          {page.alerts.map((alert) => (
            <OneAlert key={alert.id} account={account} alert={alert} onChange={() => found.again()} />
          ))}
        </ol>
      )}
      {canRead && page?.after != null && (
        <button type="button" onClick={() => older(page)}>
          {strings.watch.older}
        </button>
      )}
    </section>
  );
}

async function readAlerts(account: string, all: boolean, after: string | null, signal: AbortSignal): Promise<Page> {
  const query: [string, string][] = [["limit", String(SHOWN)]];
  if (!all) query.push(["acknowledged", "false"]);
  if (after !== null) query.push(["after", after]);
  const { result, result_info: info } = await get<Alert[], { after?: string }>(logPath(account, "/alerts"), query, signal);
  return { alerts: result, after: info.after ?? null };
}

function OneAlert({ account, alert, onChange }: { account: string; alert: Alert; onChange: () => void }) {
  const { acknowledged } = alert;
  async function acknowledge(): Promise<void> {
    try {
      await send("POST", logPath(account, `/alerts/${alert.id}/acknowledge`));
      onChange();
    } catch (reason) {
      if (reason instanceof ApiError) toast(textOf(reason));
    }
  }
  return (
    <li class="alert">
      <span class={`tag severity-${alert.severity}`}>{alert.severity}</span>
      <div>
        <strong>
          <Text value={alert.title} />
        </strong>
        <p class="soft">
          {dateAndTime(alert.window.start)} – {dateAndTime(alert.window.end)} · {strings.watch.records(alert.records)} · <Line value={alert.rule} />
        </p>
        <Deliveries account={account} alert={alert} />
        {acknowledged !== null && <p class="soft">{strings.watch.acknowledged(acknowledged.by ?? strings.list.unknownActor, dateAndTime(acknowledged.at))}</p>}
      </div>
      <div class="buttons">
        <button type="button" onClick={() => change({ record: alert.record.id })}>
          {strings.watch.show}
        </button>
        {acknowledged === null && may("alerts:acknowledge") && (
          <button type="button" class="primary" onClick={() => void acknowledge()}>
            {strings.watch.acknowledge}
          </button>
        )}
      </div>
    </li>
  );
}

/** The deliveries of an alert, read when they are opened. */
function Deliveries({ account, alert }: { account: string; alert: Alert }) {
  const found = useSignal(loading<AlertDetails>()).value;
  const path = logPath(account, `/alerts/${alert.id}`);
  function onToggle(event: Event): void {
    if (!(event.currentTarget as HTMLDetailsElement).open || found.result.value !== null) return;
    found.load(async (signal) => (await get<AlertDetails>(path, [], signal)).result);
  }
  const deliveries = found.result.value?.deliveries;
  return (
    <details class="soft" onToggle={onToggle}>
      <summary class="plain">{strings.watch.deliveries}</summary>
      <ErrorNotice error={found.error.value} onRetry={() => found.again()} />
      {deliveries?.length === 0 && <p>{strings.watch.noDeliveries}</p>}
      <ul>
        {deliveries?.map((each) => (
          <li key={each.channel}>
            <Line value={each.channel} />: {each.state}, {strings.watch.attempts(each.attempts)} <Line value={each.outcome ?? ""} />
          </li>
        ))}
      </ul>
    </details>
  );
}
