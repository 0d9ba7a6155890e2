import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { get, logPath } from "../../api/client.ts";
import type { AuditRecord, Json, ListInfo } from "../../api/types.ts";
import { ErrorNotice } from "../../components/ErrorNotice.tsx";
import { Text } from "../../components/Text.tsx";
import { dateAndTime } from "../../format.ts";
import { loading } from "../../loading.ts";
import { strings } from "../../strings.ts";
import { differences, isChange } from "./difference.ts";
import { actionText, actorText } from "./recordText.ts";

const RECORDS_MAX = 100;
const BEGINNING = "1970-01-01";
/** Beyond any record: clocks of taps can be ahead by minutes only. */
const DAY_MS = 86_400_000;

interface Found {
  records: AuditRecord[];
  status: ListInfo["history_status"];
}

/** The records of the same resource, each beside the one before. */
export function History({ account, record }: { account: string; record: AuditRecord }) {
  const found = useSignal(loading<Found>()).value;
  const chosen = useSignal(record.id);
  useEffect(() => {
    chosen.value = record.id;
    found.load(async (signal) => {
      const query: [string, string][] = [
        ["action_time", record.action.time],
        ["since", BEGINNING],
        ["before", new Date(Date.now() + DAY_MS).toISOString()],
        ["limit", String(RECORDS_MAX)],
      ];
      const page = await get<AuditRecord[], ListInfo>(logPath(account, `/${record.id}/history`), query, signal);
      return { records: page.result, status: page.result_info.history_status };
    });
  }, [account, record.id]);
  const history = found.result.value;
  if (history === null) return <ErrorNotice error={found.error.value} onRetry={() => found.again()} />;
  if (history.status === "unavailable") return <p class="empty">{strings.history.none}</p>;
  const at = history.records.findIndex(({ id }) => id === chosen.value);
  const current = history.records[at] ?? record;
  const previous = at < 0 ? null : (history.records[at + 1] ?? null);
  return (
    <>
      {history.status === "approximate" && <p class="notice">{strings.history.approximate}</p>}
      <ol class="history">
        {history.records.map((each) => (
          <li key={each.id}>
            <button type="button" aria-pressed={each.id === chosen.value} onClick={() => (chosen.value = each.id)}>
              <span class="time">{dateAndTime(each.action.time)}</span>
              <span class={`tag ${each.action.result}`}>{each.action.type}</span>
              <bdi>{actionText(each).slice(0, 200)}</bdi>
              <bdi class="soft">{actorText(each).slice(0, 200)}</bdi>
              {each.id === record.id && <em>{strings.history.current}</em>}
            </button>
          </li>
        ))}
      </ol>
      {history.records.length < 2 && <p class="hint">{strings.history.only}</p>}
      <Comparison before={previous} after={current} />
    </>
  );
}

function Comparison({ before, after }: { before: AuditRecord | null; after: AuditRecord }) {
  const rows = differences(before, after);
  return (
    <section>
      <h3>{strings.history.compare}</h3>
      {!rows.some(isChange) && <p class="hint">{strings.history.same}</p>}
      <div class="scroll" tabIndex={0}>
        <table class="difference">
          <thead>
            <tr>
              <th scope="col">{strings.history.path}</th>
              <th scope="col">{strings.history.before}</th>
              <th scope="col">{strings.history.after}</th>
            </tr>
          </thead>
          <tbody>
            {rows.map((row) => (
              <tr key={row.pointer} data-changed={isChange(row)}>
                <th scope="row">
                  <Text value={row.pointer} />
                </th>
                <td>
                  <Cell value={row.before} />
                </td>
                <td>
                  <Cell value={row.after} />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function Cell({ value }: { value: Json | undefined }) {
  if (value === undefined) return <span class="soft">{strings.history.absent}</span>;
  return <Text value={typeof value === "string" ? value : JSON.stringify(value)} />;
}
