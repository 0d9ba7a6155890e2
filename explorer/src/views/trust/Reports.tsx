// Reports on what feeds the log: runs of taps, dead letters, and requests that no OpenAPI document describes.

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { get, logPath, type Query } from "../../api/client.ts";
import type { DeadLetterCount, TapRun, UnmatchedCount } from "../../api/types.ts";
import { ErrorNotice } from "../../components/ErrorNotice.tsx";
import { Table } from "../../components/Table.tsx";
import { ago, count, dateAndTime } from "../../format.ts";
import { loading } from "../../loading.ts";
import { strings } from "../../strings.ts";
import { apiQuery, type Range } from "../find/query.ts";

export function TapRuns({ account }: { account: string }) {
  const words = strings.trust;
  return (
    <Report<TapRun>
      title={words.runs}
      path={logPath(account, "/taps")}
      query={[]}
      columns={words.runColumns}
      empty={words.unknown}
      row={(run) => [
        run.epoch === null ? run.id : `${run.id} (${strings.receipt.run} ${run.epoch})`,
        run.retired ? `${run.state}, ${words.tapNames["retired"]}` : run.state,
        run.last_heartbeat === null ? "" : ago(run.last_heartbeat, Date.now()),
        run.captures === null ? words.unknownCount : count(run.captures),
        run.missing === null ? words.unknownCount : count(run.missing),
        run.holds_watermark_at === null ? "" : dateAndTime(run.holds_watermark_at),
      ]}
    />
  );
}

export function Unmatched({ account, range }: { account: string; range: Range }) {
  const words = strings.trust;
  return (
    <Report<UnmatchedCount>
      title={words.unmatched}
      path={logPath(account, "/unmatched")}
      query={apiQuery(range, [])}
      columns={words.unmatchedColumns}
      empty={words.noUnmatched}
      row={(each) => [
        strings.receipt.unmatched[each.reason] ?? each.reason,
        each.method ?? "",
        each.path ?? "",
        count(each.count),
        dateAndTime(each.last_seen),
      ]}
    />
  );
}

export function DeadLetters({ account }: { account: string }) {
  const words = strings.trust;
  return (
    <Report<DeadLetterCount>
      title={words.deadLetters}
      path={logPath(account, "/dead_letters")}
      query={[]}
      columns={words.deadLetterColumns}
      empty={words.noDeadLetters}
      row={(each) => [each.reason, count(each.count), dateAndTime(each.oldest), dateAndTime(each.newest)]}
    />
  );
}

interface Properties<One> {
  title: string;
  path: string;
  query: Query;
  columns: Record<string, string>;
  empty: string;
  row: (one: One) => string[];
}

function Report<One>({ title, path, query, columns, empty, row }: Properties<One>) {
  const found = useSignal(loading<One[]>()).value;
  const key = `${path} ${JSON.stringify([...query])}`;
  useEffect(() => {
    found.load(async (signal) => (await get<One[]>(path, query, signal)).result);
  }, [key]);
  const listed = found.result.value;
  return (
    <section>
      <h2>{title}</h2>
      <ErrorNotice error={found.error.value} onRetry={() => found.again()} />
      {listed !== null && <Table columns={columns} rows={listed.map(row)} empty={empty} />}
    </section>
  );
}
