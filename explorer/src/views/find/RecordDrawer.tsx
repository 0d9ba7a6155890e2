import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { ApiError, get, logPath } from "../../api/client.ts";
import type { AuditRecord, Json } from "../../api/types.ts";
import { Dialog } from "../../components/Dialog.tsx";
import { ErrorNotice } from "../../components/ErrorNotice.tsx";
import { Text } from "../../components/Text.tsx";
import { copy } from "../../components/toasts.tsx";
import { exactTime } from "../../format.ts";
import { loading } from "../../loading.ts";
import { strings } from "../../strings.ts";
import { History } from "./History.tsx";
import { bodyText, notes } from "./receiptText.ts";
import { actionText, actorText } from "./recordText.ts";

type Tab = "readable" | "history" | "raw";
const TABS: Tab[] = ["readable", "history", "raw"];

interface Properties {
  account: string;
  id: string;
  onClose: () => void;
  /** Choose records by a value: only these, or all but these. */
  onFilter: (name: string, value: string, excluded: boolean) => void;
}

export function RecordDrawer({ account, id, onClose, onFilter }: Properties) {
  const found = useSignal(loading<AuditRecord>()).value;
  const tab = useSignal<Tab>("readable");
  useEffect(() => {
    found.load(async (signal) => (await get<AuditRecord>(logPath(account, `/${id}`), [], signal)).result);
  }, [account, id]);
  const record = found.result.value;
  const error = found.error.value;
  const isMissing = error instanceof ApiError && error.status === 404;
  return (
    <Dialog title={record === null ? strings.record.label : actionText(record)} kind="drawer" onClose={onClose}>
      {isMissing ? (
        <p class="empty">{strings.record.missing}</p>
      ) : (
        <ErrorNotice error={error} onRetry={() => found.again()} />
      )}
      {record !== null && (
        <>
          <div role="tablist" class="tabs" aria-label={strings.record.label}>
            {TABS.map((each) => (
              <button
                key={each}
                type="button"
                role="tab"
                id={`tab-${each}`}
                aria-selected={tab.value === each}
                aria-controls="tab-content"
                onClick={() => (tab.value = each)}
              >
                {strings.record[each]}
              </button>
            ))}
          </div>
          <div id="tab-content" role="tabpanel" aria-labelledby={`tab-${tab.value}`} tabIndex={0}>
            {tab.value === "readable" && <Readable record={record} onFilter={onFilter} />}
            {tab.value === "history" && <History account={account} record={record} />}
            {tab.value === "raw" && <Raw record={record} />}
          </div>
        </>
      )}
    </Dialog>
  );
}

function Readable({ record, onFilter }: { record: AuditRecord; onFilter: Properties["onFilter"] }) {
  const { action, actor, raw, resource, zone, account, auditap } = record;
  const words = strings.record;
  const field = (name: string, value: string | number | null | undefined) => (
    <Field name={name} value={value} onFilter={onFilter} />
  );
  return (
    <>
      <p class="headline">
        <span class={`tag ${action.result}`}>{strings.counts[action.result]}</span> {exactTime(action.time)}
      </p>
      <Section title={words.who}>
        <Plain name={strings.list.columns.actor} value={actorText(record)} />
        {field("actor_email", actor.email)}
        {field("actor_id", actor.id)}
        {field("actor_type", actor.type)}
        {field("actor_context", actor.context)}
        {field("actor_token_id", actor.token_id)}
        {field("actor_token_name", actor.token_name)}
      </Section>
      <Section title={words.what}>
        {field("action_type", action.type)}
        {field("resource_product", resource.product)}
        {field("resource_type", resource.type)}
        {field("resource_id", resource.id)}
        {field("resource_scope", resource.scope)}
        {field("zone_id", zone.id)}
        {field("zone_name", zone.name)}
        <Plain name={strings.settings.account} value={account.name ?? account.id} />
      </Section>
      <Section title={words.where}>
        {field("actor_ip_address", actor.ip_address)}
        {field("exchange_host", auditap.exchange?.host)}
        <Plain name="User-Agent" value={raw.user_agent} />
      </Section>
      <Section title={words.how}>
        {field("raw_method", raw.method)}
        {field("raw_uri", raw.uri)}
        {field("raw_status_code", raw.status_code)}
        {field("raw_cf_ray_id", raw.cf_ray_id)}
        {field("id", record.id)}
      </Section>
      <Body title={words.request} content={resource.request} why={bodyText(auditap.receipt.request)} />
      <Body title={words.response} content={resource.response} why={bodyText(auditap.receipt.response)} />
      <ReceiptSection record={record} />
    </>
  );
}

function Section({ title, children }: { title: string; children: preact.ComponentChildren }) {
  return (
    <section>
      <h3>{title}</h3>
      <dl class="fields">{children}</dl>
    </section>
  );
}

function Plain({ name, value }: { name: string; value: string | number | null | undefined }) {
  if (value === null || value === undefined || value === "") return null;
  return (
    <div>
      <dt>{name}</dt>
      <dd>
        <Text value={String(value)} />
      </dd>
    </div>
  );
}

function Field({ name, value, onFilter }: { name: string; value: string | number | null | undefined; onFilter: Properties["onFilter"] }) {
  if (value === null || value === undefined || value === "") return null;
  const label = strings.filters.names[name] ?? name;
  const text = String(value);
  return (
    <div>
      <dt>{label}</dt>
      <dd>
        <Text value={text} />
        <span class="actions">
          <button type="button" class="icon" title={strings.filters.include(label)} aria-label={strings.filters.include(label)} onClick={() => onFilter(name, text, false)}>
            +
          </button>
          <button type="button" class="icon" title={strings.filters.exclude(label)} aria-label={strings.filters.exclude(label)} onClick={() => onFilter(name, text, true)}>
            −
          </button>
        </span>
      </dd>
    </div>
  );
}

function Body({ title, content, why }: { title: string; content: Json | undefined; why: string }) {
  return (
    <section>
      <h3>{title}</h3>
      <p class="hint">{why}</p>
      {content !== undefined && <Code text={JSON.stringify(content, null, 2)} />}
    </section>
  );
}

function Code({ text }: { text: string }) {
  return (
    <div class="code">
      <button type="button" onClick={() => void copy(text, strings.record.copied)}>
        {strings.record.copy}
      </button>
      <pre tabIndex={0}>
        <Text value={text} />
      </pre>
    </div>
  );
}

function Raw({ record }: { record: AuditRecord }) {
  return <Code text={JSON.stringify(record, null, 2)} />;
}

function ReceiptSection({ record }: { record: AuditRecord }) {
  const { auditap } = record;
  const words = strings.receipt;
  const { tap } = auditap;
  const source = tap.id === null ? null : `${tap.id}, ${words.run} ${tap.epoch ?? "–"}, ${words.number} ${tap.seq ?? "–"}`;
  return (
    <section>
      <h3>{strings.record.receipt}</h3>
      <ul>
        {notes(record).map((note) => (
          <li key={note}>{note}</li>
        ))}
        {auditap.clamped_from && <li>{words.clamped(exactTime(auditap.clamped_from))}</li>}
      </ul>
      <dl class="fields">
        <Plain name={words.operation} value={auditap.operation_id} />
        <Plain name={words.document} value={auditap.receipt.document} />
        <Plain name={words.tap} value={source} />
        <Plain name={words.received} value={exactTime(auditap.received_at)} />
        <Plain name={words.enrichment} value={auditap.enrichment} />
      </dl>
    </section>
  );
}
