-- What the watcher raises, what it remembers between records, and the role that it works as.

-- One row for each rule, key and window, however many records it took. key_digest stands for the account and the key,
-- whose values may be long. Of a record it holds what the record holds, nothing else.
CREATE TABLE auditap.alerts (
    id uuid PRIMARY KEY,
    rule text NOT NULL,
    severity text NOT NULL CHECK (severity IN ('high', 'medium', 'low', 'info')),
    title text NOT NULL,
    account_id text,
    key json NOT NULL,
    key_digest bytea NOT NULL CHECK (octet_length(key_digest) = 16),
    window_start_ms bigint NOT NULL,
    window_ms bigint NOT NULL,
    records integer NOT NULL,
    record_id uuid NOT NULL,
    record json NOT NULL,
    raised_at timestamptz NOT NULL DEFAULT now(),
    acknowledged_at timestamptz,
    acknowledged_by text,
    note text,
    UNIQUE (rule, key_digest, window_start_ms)
);
CREATE INDEX alerts_account ON auditap.alerts (account_id, id);
CREATE INDEX alerts_of_no_account ON auditap.alerts (record_id) WHERE account_id IS NULL;

-- Which alert still has to be told where: written with the alert, so that a crash loses no delivery.
CREATE TABLE auditap.alert_deliveries (
    alert_id uuid NOT NULL REFERENCES auditap.alerts ON DELETE CASCADE,
    channel text NOT NULL,
    state text NOT NULL DEFAULT 'due' CHECK (state IN ('due', 'delivered', 'dead')),
    attempts integer NOT NULL DEFAULT 0,
    due_at timestamptz NOT NULL DEFAULT now(),
    outcome text,
    PRIMARY KEY (alert_id, channel)
);
CREATE INDEX alert_deliveries_due ON auditap.alert_deliveries (due_at) WHERE state = 'due';

-- The records that a window counts, each once whatever comes again. A window is counted, never kept as a number.
CREATE TABLE auditap.watch_marks (
    rule text NOT NULL,
    key_digest bytea NOT NULL,
    record_id uuid NOT NULL,
    at_ms bigint NOT NULL,
    marked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (rule, key_digest, record_id)
);
CREATE INDEX watch_marks_window ON auditap.watch_marks (rule, key_digest, at_ms);
CREATE INDEX watch_marks_age ON auditap.watch_marks USING brin (marked_at);

-- What a rule with a memory has seen: the networks of a token, the workers of an account.
CREATE TABLE auditap.watch_memories (
    rule text NOT NULL,
    key_digest bytea NOT NULL,
    value_digest bytea NOT NULL,
    learned_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (rule, key_digest, value_digest)
);
CREATE INDEX watch_memories_age ON auditap.watch_memories USING brin (learned_at);

-- How far each log has been watched: moved in the transaction that holds what was found up to there.
CREATE TABLE auditap.watch_positions (
    watcher text NOT NULL,
    log text NOT NULL,
    partition integer NOT NULL,
    next_offset bigint NOT NULL,
    PRIMARY KEY (watcher, log, partition)
);

-- How many events each hour had, counted as they came: before enrichment, and once for each time one was sent.
-- The digest is of the five columns, whose values may be long.
CREATE TABLE auditap.trends (
    hour_ms bigint NOT NULL,
    digest bytea NOT NULL CHECK (octet_length(digest) = 16),
    account_id text,
    actor_id text,
    resource_product text,
    action_type text NOT NULL,
    action_result text NOT NULL,
    events bigint NOT NULL,
    PRIMARY KEY (hour_ms, digest)
);
CREATE INDEX trends_account ON auditap.trends (account_id, hour_ms);

DO $$
BEGIN
    CREATE ROLE auditap_watcher NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END
$$;

GRANT USAGE ON SCHEMA auditap TO auditap_watcher;
-- An alert is written once; what it lacks is found out later.
GRANT SELECT, INSERT, UPDATE (account_id) ON auditap.alerts TO auditap_watcher;
GRANT SELECT, INSERT, UPDATE, DELETE ON
    auditap.alert_deliveries, auditap.watch_marks, auditap.watch_memories, auditap.watch_positions, auditap.trends
TO auditap_watcher;
GRANT SELECT (id, account_id) ON auditap.audit_enrichments TO auditap_watcher;

GRANT SELECT ON auditap.alerts, auditap.alert_deliveries, auditap.trends TO auditap_reader;

-- All that the log API may write: that somebody has seen an alert of an account. Returns whether there is such an
-- alert; the first who acknowledged it stays.
CREATE FUNCTION auditap.acknowledge_alert(alert uuid, account text, who text, remark text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE auditap.alerts SET acknowledged_at = now(), acknowledged_by = who, note = remark
    WHERE id = alert AND account_id = account AND acknowledged_at IS NULL;
    RETURN EXISTS (SELECT FROM auditap.alerts WHERE id = alert AND account_id = account);
END
$$;
REVOKE ALL ON FUNCTION auditap.acknowledge_alert(uuid, text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auditap.acknowledge_alert(uuid, text, text, text) TO auditap_reader;
