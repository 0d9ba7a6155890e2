// What the histogram, the cards and the breakdowns show: summaries of the log in the chosen range.

import { get, logPath, type Query } from "../../api/client.ts";
import type { Bucket, Envelope, SummaryInfo } from "../../api/types.ts";
import type { Range } from "./query.ts";

export const BREAKDOWNS = ["resource_product", "action_type", "actor_id"] as const;

export interface Breakdown {
  values: { value: string | null; count: number }[];
  others: number;
  /** Whether there may be more values than are listed. */
  isCut: boolean;
}

export interface Counts {
  range: Range;
  bucketMs: number;
  buckets: { sinceMs: number; success: number; failure: number }[];
  total: number;
  failures: number;
  breakdowns: Record<(typeof BREAKDOWNS)[number], Breakdown>;
  isComplete: boolean;
  countedSince: string;
}

const WIDTHS: [string, number][] = [
  ["minute", 60_000],
  ["ten_minutes", 600_000],
  ["hour", 3_600_000],
  ["day", 86_400_000],
];
const BARS_MAX = 180;
const LISTED = 8;

export function bucketFor(range: Range): { name: string; ms: number } {
  const length = range.beforeMs - range.sinceMs;
  const [name, ms] = WIDTHS.find(([, each]) => length / each <= BARS_MAX) ?? ["day", 86_400_000];
  return { name, ms };
}

export async function countRecords(account: string, range: Range, query: Query, signal: AbortSignal): Promise<Counts> {
  const bucket = bucketFor(range);
  const summary = (by: string, width: string): Promise<Envelope<Bucket[], SummaryInfo>> =>
    get<Bucket[], SummaryInfo>(logPath(account, "/summary"), [...query, ["by", by], ["bucket", width]], signal);
  const [results, ...others] = await Promise.all([
    summary("action_result", bucket.name),
    ...BREAKDOWNS.map((by) => summary(by, "day")),
  ]);
  const buckets = results.result.map((each) => ({
    sinceMs: Date.parse(each.since),
    success: valueIn(each, "success"),
    failure: valueIn(each, "failure"),
  }));
  const incomplete = [results, ...others].find((each) => !each.result_info.complete) ?? results;
  return {
    range,
    bucketMs: bucket.ms,
    buckets,
    total: buckets.reduce((sum, each) => sum + each.success + each.failure, 0),
    failures: buckets.reduce((sum, each) => sum + each.failure, 0),
    breakdowns: Object.fromEntries(
      BREAKDOWNS.map((by, at) => [by, breakdownOf(others[at]?.result ?? [])]),
    ) as Counts["breakdowns"],
    isComplete: incomplete.result_info.complete,
    countedSince: incomplete.result_info.counted_since,
  };
}

function valueIn(bucket: Bucket, value: string): number {
  return bucket.values.find((each) => each.value === value)?.count ?? 0;
}

export function breakdownOf(buckets: Bucket[]): Breakdown {
  const totals = new Map<string | null, number>();
  for (const { value, count } of buckets.flatMap((bucket) => bucket.values)) {
    totals.set(value, (totals.get(value) ?? 0) + count);
  }
  const values = [...totals].map(([value, count]) => ({ value, count })).sort((a, b) => b.count - a.count);
  const unlisted = buckets.reduce((sum, bucket) => sum + bucket.others, 0);
  return { values, others: unlisted, isCut: unlisted > 0 };
}

export function listed(breakdown: Breakdown): Breakdown {
  const others = breakdown.values.slice(LISTED).reduce((sum, each) => sum + each.count, breakdown.others);
  return { ...breakdown, values: breakdown.values.slice(0, LISTED), others };
}
