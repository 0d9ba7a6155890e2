-- Events of taps whose clocks are ahead: stored under an id of our time, which is noted, so that it is the same each time.

-- What the tap claimed, Unix ms; NULL: the id is the tap's own.
ALTER TABLE auditap.audit_records ADD COLUMN clamped_from_ms bigint;

-- Whoever notes an event first decides its id.
CREATE TABLE auditap.clamped_ids (
    event_id uuid PRIMARY KEY,
    clamped_id uuid NOT NULL
);
CREATE INDEX clamped_ids_clamped ON auditap.clamped_ids (clamped_id);

CREATE OR REPLACE VIEW auditap.audit_log AS
SELECT
    r.id,
    coalesce(r.account_id, e.account_id) AS account_id,
    coalesce(r.account_name, e.account_name) AS account_name,
    r.action_description, r.action_result, r.action_type,
    r.actor_id, r.actor_context,
    coalesce(r.actor_email, e.actor_email) AS actor_email,
    r.actor_ip_address, r.actor_token_id,
    coalesce(r.actor_token_name, e.actor_token_name) AS actor_token_name,
    r.actor_type,
    r.raw_cf_ray_id, r.raw_method, r.raw_status_code, r.raw_uri, r.raw_user_agent,
    r.resource_id, r.resource_product, r.resource_request, r.resource_response, r.resource_scope, r.resource_type,
    r.zone_id,
    coalesce(r.zone_name, e.zone_name) AS zone_name,
    r.receipt, r.operation_id, r.tap_id, r.tap_epoch, r.tap_seq, r.received_ms,
    coalesce(e.state, r.enrichment) AS enrichment,
    r.clamped_from_ms
FROM auditap.audit_records AS r
LEFT JOIN auditap.audit_enrichments AS e ON e.id = r.id;

-- Begins a transaction that stores events of these ids, both included: until it ends nothing is noted. Returns whether
-- there are notes among them. Two statements, so that the second sees what was noted before the lock was there.
CREATE FUNCTION auditap.hold_clamped_ids(low uuid, high uuid) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtext('auditap.clamped_ids'));
    RETURN EXISTS (SELECT FROM auditap.clamped_ids WHERE event_id BETWEEN low AND high);
END
$$;

-- Notes under which ids events are stored, in a transaction of its own: those that have no note and no record under their
-- own id. It waits for the batches that are being stored, and those that follow wait for it, so that nobody
-- stores an event under its own id while another notes it.
CREATE FUNCTION auditap.note_clamped_ids(event_ids uuid[], clamped_ids uuid[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    low CONSTANT uuid := (SELECT each FROM unnest(event_ids) AS each ORDER BY each LIMIT 1);
BEGIN
    IF NOT EXISTS (
        SELECT FROM unnest(event_ids) AS given (id)
        WHERE NOT EXISTS (SELECT FROM auditap.clamped_ids AS noted WHERE noted.event_id = given.id)
    ) THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('auditap.clamped_ids'));
    INSERT INTO auditap.clamped_ids (event_id, clamped_id)
    SELECT given.id, given.clamped_id
    FROM unnest(event_ids, clamped_ids) AS given (id, clamped_id)
    LEFT JOIN LATERAL (
        SELECT stored.id FROM auditap.audit_records AS stored WHERE stored.id = given.id AND stored.id >= low
        OFFSET 0
    ) AS own ON true
    WHERE own.id IS NULL
    ORDER BY given.id, given.clamped_id
    ON CONFLICT DO NOTHING;
END
$$;

REVOKE ALL ON FUNCTION auditap.hold_clamped_ids(uuid, uuid), auditap.note_clamped_ids(uuid[], uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auditap.hold_clamped_ids(uuid, uuid), auditap.note_clamped_ids(uuid[], uuid[])
TO auditap_writer;
GRANT SELECT ON auditap.clamped_ids TO auditap_writer;

-- As before, and notes of clamped ids: a month later than the rest, because the record goes with its partition alone.
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
        SELECT ctid FROM auditap.dead_letters WHERE buried_at < to_timestamp(since_ms / 1000.0)
        ORDER BY buried_at LIMIT rows_max FOR UPDATE SKIP LOCKED
    ));
    GET DIAGNOSTICS taken = ROW_COUNT;
    RETURN total + taken;
END
$$;
