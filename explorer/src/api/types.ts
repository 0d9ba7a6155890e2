// What the log API returns, as its OpenAPI document has it.

export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

export interface BodyReceipt {
  kept?: number | null;
  reason?: string | null;
}

export interface Receipt {
  document: string | null;
  operation: string | null;
  unmatched?: string | null;
  request?: BodyReceipt;
  response?: BodyReceipt;
  altered?: boolean;
  refused?: string[];
  identity?: {
    source: "token" | "headers" | "none";
    reason?: string | null;
    issuer?: string | null;
    kind?: string | null;
    client?: string | null;
    on_behalf_of?: { id: string | null; email: string | null } | null;
    via?: string[];
  } | null;
}

export interface AuditRecord {
  id: string;
  account: { id: string | null; name: string | null };
  action: { description: string | null; result: "success" | "failure"; time: string; type: string };
  actor: {
    id: string | null;
    context: string | null;
    email: string | null;
    ip_address: string | null;
    token_id: string | null;
    token_name: string | null;
    type: string | null;
  };
  raw: {
    cf_ray_id: string | null;
    method: string | null;
    status_code: number | null;
    uri: string | null;
    user_agent: string | null;
  };
  resource: {
    id: string | null;
    product: string | null;
    request?: Json;
    response?: Json;
    scope: string | null;
    type: string | null;
  };
  zone: { id: string | null; name: string | null };
  auditap: {
    receipt: Receipt;
    enrichment: string;
    tap: { id: string | null; epoch: number | null; seq: number | null };
    exchange?: { host: string | null; duration_ms: number | null; response_bytes: number | null } | null;
    operation_id: string | null;
    received_at: string;
    clamped_from?: string | null;
    actor_email?: string | null;
    changes?: Changes;
  };
}

export interface Changes {
  status: "exact" | "approximate" | "first_seen" | "unavailable";
  previous_id: string | null;
  from_ids: string[];
  changes: { pointer: string; before?: Json; after?: Json }[];
  truncated: boolean;
}

export interface ListInfo {
  count: number;
  complete_before: string | null;
  cursor?: string;
  history_status?: "exact" | "approximate" | "unavailable";
}

export interface Envelope<Result, Info = undefined> {
  result: Result;
  result_info: Info;
}

export interface Bucket {
  since: string;
  before: string;
  count: number;
  values: { value: string | null; count: number }[];
  others: number;
}

export interface SummaryInfo {
  count: number;
  complete: boolean;
  counted_since: string;
}

export interface Gap {
  cause: string;
  tap: { id: string; epoch: number } | null;
  log: { name: string; partition: number } | null;
  first: number;
  last: number | null;
  count: number | null;
  from: string | null;
  to: string | null;
}

export interface CompletenessInfo {
  count: number;
  complete: boolean;
  gaps: number;
  missing: number;
  complete_before: string | null;
  taps: { alive: number; expired: number; unnumbered: number; surplus: number; retired: number };
}

export interface Alert {
  id: string;
  rule: string;
  severity: "high" | "medium" | "low" | "info";
  title: string;
  key: { [name: string]: Json };
  window: { start: string; end: string };
  records: number;
  record: { id: string };
  raised_at: string;
  acknowledged: { at: string; by: string | null; note: string | null } | null;
}

export interface Session {
  token: {
    id: string;
    name: string;
    email: string | null;
    expires_on: string;
    permissions: string[];
    accounts: string[] | null;
  };
  expires_on: string;
}

export interface Account {
  id: string;
  name: string;
}

export interface TapRun {
  id: string;
  epoch: number | null;
  state: string;
  captures: number | null;
  missing: number | null;
  lag_ms: number;
  last_heartbeat: string | null;
  holds_watermark_at: string | null;
  retired: boolean;
}

export interface DeadLetterCount {
  reason: string;
  count: number;
  oldest: string;
  newest: string;
}

export interface UnmatchedCount {
  reason: string;
  method: string | null;
  path: string | null;
  count: number;
  last_seen: string;
}

export interface AlertDetails extends Alert {
  deliveries: { channel: string; state: string; attempts: number; outcome: string | null }[];
}
