// The state of the view Find, as it is in the page's address, and the parameters for the API that follow from it.

import type { Query } from "../../api/client.ts";

export interface Filter {
  name: string;
  excluded: boolean;
  values: string[];
}

export interface FindState {
  account: string;
  /** One of `PRESETS_S`, or null for an absolute range. */
  preset: string | null;
  since: string | null;
  before: string | null;
  filters: Filter[];
}

export interface Range {
  sinceMs: number;
  beforeMs: number;
}

export const PRESETS_S: Record<string, number> = {
  "15m": 900,
  "1h": 3_600,
  "24h": 86_400,
  "7d": 604_800,
  "30d": 2_592_000,
};
export const DEFAULT_PRESET = "24h";
export const ALL_ACCOUNTS = "-";

/** The filters of the API, in the order of the menu. */
export const FILTERS = [
  "actor_email", "actor_id", "actor_ip_address", "actor_type", "actor_context", "actor_token_id", "actor_token_name",
  "action_type", "action_result", "resource_product", "resource_type", "resource_id", "resource_scope",
  "raw_method", "raw_status_code", "raw_uri", "raw_cf_ray_id", "exchange_host", "zone_id", "zone_name", "account_name",
  "product_category", "unmatched", "altered", "id",
] as const;

/** Filters with few values, which a menu can offer. */
export const CHOICES: Record<string, string[]> = {
  action_result: ["success", "failure"],
  action_type: ["create", "update", "delete", "view"],
  actor_type: ["user", "account", "system", "delegated_service", "cloudflare_admin"],
  actor_context: ["api_token", "api_key", "dash", "oauth", "api", "origin_ca_key"],
  resource_scope: ["accounts", "zones", "user", "memberships"],
  raw_method: ["GET", "POST", "PUT", "PATCH", "DELETE"],
  unmatched: ["no_document", "invalid_path", "no_path", "no_method", "method_override", "system"],
  altered: ["true", "false"],
};

export function stateIn(params: URLSearchParams, firstAccount: string): FindState {
  const since = params.get("since");
  const before = params.get("before");
  const isAbsolute = isTime(since) && isTime(before);
  const preset = params.get("range");
  return {
    account: params.get("account") ?? firstAccount,
    preset: isAbsolute ? null : preset !== null && preset in PRESETS_S ? preset : DEFAULT_PRESET,
    since: isAbsolute ? since : null,
    before: isAbsolute ? before : null,
    filters: filtersIn(params),
  };
}

function isTime(text: string | null): text is string {
  return text !== null && !Number.isNaN(Date.parse(text));
}

function filtersIn(params: URLSearchParams): Filter[] {
  const found: Filter[] = [];
  for (const key of new Set(params.keys())) {
    const name = key.replace(/\.not$/, "");
    if ((FILTERS as readonly string[]).includes(name)) {
      found.push({ name, excluded: key !== name, values: params.getAll(key) });
    }
  }
  return found;
}

/** The range in Unix milliseconds; a preset ends at `nowMs`. */
export function rangeOf(state: FindState, nowMs: number): Range {
  if (state.since !== null && state.before !== null) {
    return { sinceMs: Date.parse(state.since), beforeMs: Date.parse(state.before) };
  }
  const seconds = PRESETS_S[state.preset ?? DEFAULT_PRESET] ?? 0;
  return { sinceMs: nowMs - seconds * 1000, beforeMs: nowMs };
}

export function keyOf(filter: Filter): string {
  return filter.excluded ? `${filter.name}.not` : filter.name;
}

export function apiQuery(range: Range, filters: Filter[]): [string, string][] {
  return [
    ["since", new Date(range.sinceMs).toISOString()],
    ["before", new Date(range.beforeMs).toISOString()],
    ...filters.flatMap((filter) => filter.values.map((value): [string, string] => [keyOf(filter), value])),
  ];
}

/** Return the values that the filter `name` has with `value` added. It leaves the opposite filter. */
export function withValue(filters: Filter[], name: string, value: string, excluded: boolean): Record<string, string[] | null> {
  const valuesOf = (isExcluded: boolean): string[] =>
    filters.find((each) => each.name === name && each.excluded === isExcluded)?.values ?? [];
  const opposite = valuesOf(!excluded).filter((each) => each !== value);
  const added = excluded ? [...new Set([...valuesOf(true), value])] : [value];
  return {
    [keyOf({ name, excluded, values: [] })]: added,
    [keyOf({ name, excluded: !excluded, values: [] })]: opposite.length ? opposite : null,
  };
}

/** The command line that exports a view. Quoted for a POSIX shell. */
export function curlLine(url: string, query: Query): string {
  const text = `${url}?${new URLSearchParams([...query]).toString()}`;
  return `curl -N '${text.replaceAll("'", "'\\''")}' -H "Authorization: Bearer $TOKEN"`;
}
