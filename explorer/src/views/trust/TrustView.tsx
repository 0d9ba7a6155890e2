// Trust: whether anything is missing in a time range, from which tap, and why.

import { useSignal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { get, logPath } from "../../api/client.ts";
import type { CompletenessInfo, Gap } from "../../api/types.ts";
import { ErrorNotice } from "../../components/ErrorNotice.tsx";
import { Table } from "../../components/Table.tsx";
import { count, dateAndTime } from "../../format.ts";
import { loading } from "../../loading.ts";
import { place } from "../../location.ts";
import { currentAccount } from "../../Shell.tsx";
import { session } from "../../session.ts";
import { strings } from "../../strings.ts";
import { apiQuery, rangeOf, stateIn, type Range } from "../find/query.ts";
import { RangeChoice } from "../find/RangeChoice.tsx";
import { DeadLetters, TapRuns, Unmatched } from "./Reports.tsx";

interface Found {
  gaps: Gap[];
  info: CompletenessInfo;
}

export function TrustView() {
  const account = currentAccount();
  const state = stateIn(place.value.params, account);
  const range = useMemo(() => rangeOf(state, Date.now()), [state.preset, state.since, state.before]);
  const found = useSignal(loading<Found>()).value;
  useEffect(() => {
    found.load(async (signal) => {
      const { result, result_info: info } = await get<Gap[], CompletenessInfo>(logPath(account, "/completeness"), apiQuery(range, []), signal);
      return { gaps: result, info };
    });
  }, [account, range]);
  const completeness = found.result.value;
  return (
    <div class="page">
      <div class="controls">
        <h1>{strings.trust.title}</h1>
        <RangeChoice state={state} range={range} />
      </div>
      <ErrorNotice error={found.error.value} onRetry={() => found.again()} />
      {completeness !== null && (
        <>
          <Verdict info={completeness.info} range={range} />
          <Taps info={completeness.info} />
          <Gaps gaps={completeness.gaps} info={completeness.info} />
          <TapRuns account={account} />
          <Unmatched account={account} range={range} />
          {session.value?.token.accounts === null && <DeadLetters account={account} />}
        </>
      )}
    </div>
  );
}

function Verdict({ info, range }: { info: CompletenessInfo; range: Range }) {
  const words = strings.trust;
  const watermark = info.complete_before;
  const isMissing = info.gaps > 0;
  const text = isMissing ? words.incomplete(count(info.gaps), count(info.missing)) : words.complete;
  const isPending = watermark !== null && Date.parse(watermark) < range.beforeMs;
  return (
    <section class={`verdict ${isMissing ? "bad" : watermark === null ? "open" : "good"}`}>
      <strong>{watermark === null && !isMissing ? words.unknown : text}</strong>
      {isPending && <span>{words.pending(dateAndTime(watermark))}</span>}
      {watermark !== null && (
        <dl class="fields">
          <div>
            <dt>{words.watermark}</dt>
            <dd>{dateAndTime(watermark)}</dd>
          </div>
        </dl>
      )}
      <p class="hint">{words.watermarkHint}</p>
    </section>
  );
}

function Taps({ info }: { info: CompletenessInfo }) {
  return (
    <section>
      <h2>{strings.trust.taps}</h2>
      <ul class="tiles">
        {Object.entries(info.taps).map(([name, taps]) => (
          <li key={name} class="card">
            <span class="number">{count(taps)}</span>
            <span class="name">{strings.trust.tapNames[name] ?? name}</span>
          </li>
        ))}
      </ul>
    </section>
  );
}

function Gaps({ gaps, info }: { gaps: Gap[]; info: CompletenessInfo }) {
  const words = strings.trust;
  const rows = gaps.map((gap) => [
    `${words.causes[gap.cause] ?? gap.cause} (${gap.cause})`,
    sourceOf(gap),
    `${gap.first} – ${gap.last ?? "…"}`,
    gap.count === null ? words.unknownCount : count(gap.count),
    timeOr(gap.from),
    timeOr(gap.to),
  ]);
  return (
    <section>
      <h2>{words.gaps}</h2>
      <Table columns={words.columns} rows={rows} empty={words.noGaps} />
      {!info.complete && <p class="notice">{words.more(count(info.gaps - gaps.length))}</p>}
    </section>
  );
}

function timeOr(at: string | null): string {
  return at === null ? strings.trust.unknownCount : dateAndTime(at);
}

function sourceOf(gap: Gap): string {
  if (gap.tap !== null) return `${gap.tap.id} (${strings.receipt.run} ${gap.tap.epoch})`;
  return gap.log === null ? "" : `${gap.log.name} / ${gap.log.partition}`;
}
