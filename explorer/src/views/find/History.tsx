import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { get, logPath } from "../../api/client.ts";
import type { AuditRecord, Changes, Json, ListInfo } from "../../api/types.ts";
import { ErrorNotice } from "../../components/ErrorNotice.tsx";
import { Text } from "../../components/Text.tsx";
import { dateAndTime } from "../../format.ts";
import { loading } from "../../loading.ts";
import { strings } from "../../strings.ts";
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
        ["changes", "true"],
      ];
      const page = await get<AuditRecord[], ListInfo>(logPath(account, `/${record.id}/history`), query, signal);
      return { records: page.result, status: page.result_info.history_status };
    });
  }, [account, record.id]);
  const history = found.result.value;
  if (history === null) return <ErrorNotice error={found.error.value} onRetry={() => found.again()} />;
  if (history.status === "unavailable") return <p class="empty">{strings.history.none}</p>;
  const changes = history.records.find(({ id }) => id === chosen.value)?.auditap.changes;
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
      {changes !== undefined && <WhatChanged changes={changes} />}
    </>
  );
}

function WhatChanged({ changes }: { changes: Changes }) {
  const words = strings.history;
  return (
    <section aria-live="polite">
      <h3>{words.changes}</h3>
      <p class="hint">{changes.status === "exact" && changes.changes.length === 0 ? words.same : words.status[changes.status]}</p>
      {changes.changes.length > 0 && (
        <div class="scroll" tabIndex={0}>
          <table class="difference">
            <thead>
              <tr>
                <th scope="col">{words.path}</th>
                <th scope="col">{words.before}</th>
                <th scope="col">{words.after}</th>
              </tr>
            </thead>
            <tbody>
              {changes.changes.map((row) => (
                <tr key={row.pointer}>
                  <th scope="row">
                    <Text value={row.pointer} />
                  </th>
                  <td>
                    <Cell value={row.before} absent={changes.status === "exact" ? words.absent : words.unknown} />
                  </td>
                  <td>
                    <Cell value={row.after} absent={words.absent} />
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {changes.truncated && <p class="notice">{words.truncated}</p>}
    </section>
  );
}

function Cell({ value, absent }: { value: Json | undefined; absent: string }) {
  if (value === undefined) return <span class="soft">{absent}</span>;
  return <Text value={typeof value === "string" ? value : JSON.stringify(value)} />;
}
