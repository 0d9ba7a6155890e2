-- Names dead letters by the field's terms: they are dead-lettered, not buried, and unresolved until they are stored or discarded.

ALTER TABLE auditap.dead_letters RENAME COLUMN buried_at TO dead_lettered_at;
ALTER INDEX auditap.dead_letters_buried RENAME TO dead_letters_age;

-- The indexes on the old state go with it.
ALTER TABLE auditap.dead_letters DROP COLUMN state;
ALTER TABLE auditap.dead_letters ADD COLUMN state text NOT NULL GENERATED ALWAYS AS (
    CASE WHEN discarded_at IS NOT NULL THEN 'discarded' WHEN stored_at IS NOT NULL THEN 'stored' ELSE 'unresolved' END
) STORED;
CREATE INDEX dead_letters_unresolved ON auditap.dead_letters (number) WHERE state = 'unresolved';
CREATE INDEX dead_letters_unresolved_reason ON auditap.dead_letters (reason) WHERE state = 'unresolved';

DROP FUNCTION auditap.open_letters(text[], bigint);
-- For each of the reasons the number of unresolved dead letters, counted up to count_max.
CREATE FUNCTION auditap.count_unresolved_dead_letters(reasons text[], count_max bigint)
RETURNS TABLE (reason text, dead_letters bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT asked.reason, found.dead_letters
    FROM unnest(reasons) AS asked (reason)
    CROSS JOIN LATERAL (
        SELECT count(*) AS dead_letters FROM (
            SELECT FROM auditap.dead_letters AS stored
            WHERE stored.state = 'unresolved' AND stored.reason = asked.reason
            LIMIT count_max
        ) AS counted
    ) AS found
$$;
REVOKE EXECUTE ON FUNCTION auditap.count_unresolved_dead_letters(text[], bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auditap.count_unresolved_dead_letters(text[], bigint) TO auditap_writer;

-- As before, with the new name of the column.
CREATE OR REPLACE FUNCTION auditap.prune_beside_log(keep_days integer, rows_max integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    since_ms CONSTANT bigint := auditap.kept_since_ms(keep_days);
    month_ms CONSTANT bigint := 32 * 86400000::bigint;
    taken bigint;
    total bigint := 0;
BEGIN
    DELETE FROM auditap.partial_records WHERE id IN (
        SELECT id FROM auditap.partial_records WHERE id < auditap.first_id_at(since_ms)
        ORDER BY id LIMIT rows_max FOR UPDATE SKIP LOCKED
    );
    GET DIAGNOSTICS taken = ROW_COUNT;
    total := total + taken;
    DELETE FROM auditap.clamped_ids WHERE event_id IN (
        SELECT event_id FROM auditap.clamped_ids WHERE clamped_id < auditap.first_id_at(greatest(since_ms - month_ms, 0))
        ORDER BY clamped_id LIMIT rows_max FOR UPDATE SKIP LOCKED
    );
    GET DIAGNOSTICS taken = ROW_COUNT;
    total := total + taken;
    DELETE FROM auditap.dead_letters WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM auditap.dead_letters WHERE dead_lettered_at < to_timestamp(since_ms / 1000.0)
        ORDER BY dead_lettered_at LIMIT rows_max FOR UPDATE SKIP LOCKED
    ));
    GET DIAGNOSTICS taken = ROW_COUNT;
    RETURN total + taken;
END
$$;
