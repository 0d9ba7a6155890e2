-- Trends are kept in two widths: hours, and the ten minutes that windows which hop are made of. The digest is of the
-- width too.

ALTER TABLE auditap.trends RENAME COLUMN hour_ms TO start_ms;
ALTER TABLE auditap.trends ADD COLUMN width_ms bigint NOT NULL DEFAULT 3600000 CHECK (width_ms > 0);
ALTER TABLE auditap.trends ALTER COLUMN width_ms DROP DEFAULT;
DROP INDEX auditap.trends_account;
CREATE INDEX trends_account ON auditap.trends (account_id, width_ms, start_ms);
CREATE INDEX trends_age ON auditap.trends (width_ms, start_ms);
