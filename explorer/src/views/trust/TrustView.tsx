// Trust: whether anything is missing in a time range, from which tap, and why.

import { useSignal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { get, logPath } from "../../api/client.ts";
import type { CompletenessInfo, Gap } from "../../api/types.ts";
import { ErrorNotice } from "../../components/ErrorNotice.tsx";
import { Line } from "../../components/Text.tsx";
import { count, dateAndTime } from "../../format.ts";
import { loading } from "../../loading.ts";
import { place } from "../../location.ts";
import { currentAccount } from "../../Shell.tsx";
import { strings } from "../../strings.ts";
import { apiQuery, rangeOf, stateIn, type Range } from "../find/query.ts";
import { RangeChoice } from "../find/RangeChoice.tsx";

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
  return (
    <section>
      <h2>{words.gaps}</h2>
      {gaps.length === 0 && <p class="empty">{words.noGaps}</p>}
      {gaps.length > 0 && (
        <div class="scroll" tabIndex={0}>
          <table>
            <thead>
              <tr>
                {Object.values(words.columns).map((text) => (
                  <th key={text} scope="col">
                    {text}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {gaps.map((gap) => (
                <GapRow key={`${sourceOf(gap)} ${gap.first}`} gap={gap} />
              ))}
            </tbody>
          </table>
        </div>
      )}
      {!info.complete && <p class="notice">{words.more(count(info.gaps - gaps.length))}</p>}
    </section>
  );
}

function GapRow({ gap }: { gap: Gap }) {
  const time = (at: string | null): string => (at === null ? strings.trust.unknownCount : dateAndTime(at));
  return (
    <tr>
      <td>
        {strings.trust.causes[gap.cause] ?? gap.cause} <code>{gap.cause}</code>
      </td>
      <td>
        <Line value={sourceOf(gap)} />
      </td>
      <td class="numeric">
        {gap.first} – {gap.last ?? "…"}
      </td>
      <td class="numeric">{gap.count === null ? strings.trust.unknownCount : count(gap.count)}</td>
      <td>{time(gap.from)}</td>
      <td>{time(gap.to)}</td>
    </tr>
  );
}

function sourceOf(gap: Gap): string {
  if (gap.tap !== null) return `${gap.tap.id} (${strings.receipt.run} ${gap.tap.epoch})`;
  return gap.log === null ? "" : `${gap.log.name} / ${gap.log.partition}`;
}
