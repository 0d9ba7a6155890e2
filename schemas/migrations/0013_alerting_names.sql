-- Names what alerting keeps by the field's terms, and gives it a role of its own name. `auditap_watcher` keeps its login and
-- loses every right in this database: roles belong to the whole server, where another database may still use it.

ALTER TABLE auditap.watch_marks RENAME TO alert_window_entries;
ALTER TABLE auditap.alert_window_entries RENAME COLUMN marked_at TO counted_at;
ALTER TABLE auditap.alert_window_entries RENAME CONSTRAINT watch_marks_pkey TO alert_window_entries_pkey;
ALTER INDEX auditap.watch_marks_window RENAME TO alert_window_entries_window;
ALTER INDEX auditap.watch_marks_age RENAME TO alert_window_entries_age;

ALTER TABLE auditap.watch_memories RENAME TO alert_seen_values;
ALTER TABLE auditap.alert_seen_values RENAME COLUMN learned_at TO seen_at;
ALTER TABLE auditap.alert_seen_values RENAME CONSTRAINT watch_memories_pkey TO alert_seen_values_pkey;
ALTER INDEX auditap.watch_memories_age RENAME TO alert_seen_values_age;

ALTER TABLE auditap.watch_positions RENAME TO alert_positions;
ALTER TABLE auditap.alert_positions RENAME COLUMN watcher TO consumer_group;
ALTER TABLE auditap.alert_positions RENAME CONSTRAINT watch_positions_pkey TO alert_positions_pkey;
-- The default consumer group has a new name too. Without its positions the log would be read, and trends counted, again.
UPDATE auditap.alert_positions SET consumer_group = 'auditap-alerting' WHERE consumer_group = 'auditap-watch';

DO $$
BEGIN
    CREATE ROLE auditap_alerting NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END
$$;

GRANT USAGE ON SCHEMA auditap TO auditap_alerting;
GRANT SELECT, INSERT, UPDATE (account_id) ON auditap.alerts TO auditap_alerting;
GRANT SELECT, INSERT, UPDATE, DELETE ON
    auditap.alert_deliveries, auditap.alert_window_entries, auditap.alert_seen_values, auditap.alert_positions, auditap.trends
TO auditap_alerting;
GRANT SELECT (id, account_id) ON auditap.audit_enrichments TO auditap_alerting;

DO $$
BEGIN
    -- A database that was restored on another server may not have the role.
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'auditap_watcher') THEN
        REVOKE ALL ON ALL TABLES IN SCHEMA auditap FROM auditap_watcher;
        REVOKE UPDATE (account_id) ON auditap.alerts FROM auditap_watcher;
        REVOKE SELECT (id, account_id) ON auditap.audit_enrichments FROM auditap_watcher;
        REVOKE ALL ON SCHEMA auditap FROM auditap_watcher;
    END IF;
END
$$;
