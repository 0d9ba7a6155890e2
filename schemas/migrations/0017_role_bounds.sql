-- Bounds what the roles may do where the caller's arguments were the only bound: the functions themselves check them.

-- First, and in the order in which ingest locks them: a migration that takes them in another order deadlocks with it.
LOCK TABLE auditap.clamped_ids, auditap.audit_records IN ACCESS EXCLUSIVE MODE;
LOCK TABLE auditap.dead_letters, auditap.unnumbered_taps IN SHARE ROW EXCLUSIVE MODE;

-- Gaps that were closed without their records: forgotten with their tap. Counts by tap, epoch and cause.
CREATE TABLE auditap.closed_gaps (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tap_id text,
    epoch bigint,
    log text,
    partition integer,
    cause text NOT NULL,
    gaps bigint NOT NULL,
    -- NULL where a gap has no end.
    missing bigint,
    from_ms bigint,
    to_ms bigint,
    closed_at timestamptz NOT NULL DEFAULT now(),
    login text NOT NULL DEFAULT session_user
);
CREATE INDEX closed_gaps_age ON auditap.closed_gaps (closed_at);
GRANT SELECT ON auditap.closed_gaps TO auditap_reader, auditap_operator;

-- As before, with three bounds. The waits have limits, which GapLedgerWaits in ingestor/config.py repeats. A tap is kept for at
-- least 30 days of the log's own time, and leaves a row for its gaps. Whatever holes_max is, folding hides no gap and
-- bounds the ledger.
CREATE OR REPLACE FUNCTION auditap.tidy_completeness(
    new_settle_ms bigint, new_give_up_ms bigint, new_hold_ms bigint, keep_ms bigint, holes_max integer
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    one record;
    fold bigint;
    holes_kept CONSTANT integer := least(greatest(coalesce(holes_max, 2000), 50), 2000);
    log_ms bigint;
    forget_before_ms bigint;
    old_taps text[];
    old_epochs bigint[];
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('auditap.tidy_completeness')) THEN
        RETURN;
    END IF;
    SELECT received_ms INTO STRICT log_ms FROM auditap.completeness_clock;
    forget_before_ms := least(log_ms, auditap.now_ms()) - greatest(keep_ms, 2592000000);
    DELETE FROM auditap.late_arrivals WHERE held_until_ms <= auditap.now_ms();
    DELETE FROM auditap.unnumbered_taps WHERE latest_ms < forget_before_ms;
    WITH forgotten AS (
        DELETE FROM auditap.lost_offsets WHERE to_ms < forget_before_ms RETURNING *
    )
    INSERT INTO auditap.closed_gaps (log, partition, cause, gaps, missing, from_ms, to_ms)
    SELECT log, partition, 'offsets_expired', count(*), sum(last - first + 1), min(from_ms), max(to_ms)
    FROM forgotten GROUP BY log, partition;
    -- Locked first: a report that arrives between the two statements would keep an epoch whose gaps have been closed.
    SELECT array_agg(old.tap_id), array_agg(old.epoch) INTO old_taps, old_epochs
    FROM (
        SELECT e.tap_id, e.epoch FROM auditap.tap_epochs AS e
        WHERE e.heard_ms < forget_before_ms AND e.latest_ms < forget_before_ms
        ORDER BY e.tap_id, e.epoch FOR UPDATE
    ) AS old;
    IF old_taps IS NOT NULL THEN
        INSERT INTO auditap.closed_gaps (tap_id, epoch, cause, gaps, missing, from_ms, to_ms)
        SELECT g.tap_id, g.epoch, g.cause, count(*),
            CASE WHEN bool_and(g.count IS NOT NULL) THEN sum(g.count) END, min(g.from_ms), max(g.to_ms)
        FROM auditap.completeness_gaps AS g
        JOIN unnest(old_taps, old_epochs) AS old (tap_id, epoch) ON old.tap_id = g.tap_id AND old.epoch = g.epoch
        GROUP BY g.tap_id, g.epoch, g.cause;
        DELETE FROM auditap.tap_epochs AS e
        USING unnest(old_taps, old_epochs) AS old (tap_id, epoch)
        WHERE e.tap_id = old.tap_id AND e.epoch = old.epoch;
    END IF;
    FOR one IN
        SELECT tap_id, epoch FROM auditap.tap_epochs
        WHERE (SELECT count(*) FROM unnest(seen)) > holes_kept ORDER BY tap_id, epoch
    LOOP
        PERFORM FROM auditap.tap_epochs WHERE tap_id = one.tap_id AND epoch = one.epoch FOR UPDATE;
        SELECT least(lower(run), due.until) INTO fold
        FROM auditap.tap_due AS due, unnest(due.seen) WITH ORDINALITY AS runs (run, place)
        WHERE due.tap_id = one.tap_id AND due.epoch = one.epoch
            AND place = (SELECT count(*) FROM unnest(due.seen)) - holes_kept / 2;
        -- Without a number to fold below, everything would count as seen.
        CONTINUE WHEN fold IS NULL;
        INSERT INTO auditap.tap_folded_gaps AS f
        SELECT g.tap_id, g.epoch, 1, fold - 1, sum(g.count), g.cause, min(g.from_ms), max(g.to_ms)
        FROM auditap.completeness_gaps AS g
        WHERE g.tap_id = one.tap_id AND g.epoch = one.epoch AND g.last < fold
        GROUP BY g.tap_id, g.epoch, g.cause
        ON CONFLICT (tap_id, epoch, first, cause) DO UPDATE SET
            -- What was folded before is among the gaps that are summed.
            last = excluded.last, count = excluded.count, from_ms = excluded.from_ms, to_ms = excluded.to_ms;
        DELETE FROM auditap.tap_drops WHERE tap_id = one.tap_id AND epoch = one.epoch AND last < fold;
        UPDATE auditap.tap_epochs SET seen = seen + int8multirange(int8range(1, fold))
        WHERE tap_id = one.tap_id AND epoch = one.epoch;
    END LOOP;
    -- Last, as in a batch of reports: whoever locks the clock before the epochs deadlocks with it.
    UPDATE auditap.completeness_clock AS clock
    SET settle_ms = asked.settle_ms, give_up_ms = asked.give_up_ms, hold_ms = asked.hold_ms
    FROM (SELECT
        least(greatest(new_settle_ms, 0), 3600000) AS settle_ms,
        least(greatest(new_give_up_ms, 0), 86400000) AS give_up_ms,
        least(greatest(new_hold_ms, 60000), 86400000) AS hold_ms
    ) AS asked
    WHERE (clock.settle_ms, clock.give_up_ms, clock.hold_ms)
        IS DISTINCT FROM (asked.settle_ms, asked.give_up_ms, asked.hold_ms);
END
$$;

-- As before, but a time that is ahead does not keep the row for ever, and what was noted so is corrected.
UPDATE auditap.unnumbered_taps
SET first_ms = least(first_ms, auditap.now_ms()), latest_ms = least(latest_ms, auditap.now_ms())
WHERE latest_ms > auditap.now_ms();
CREATE OR REPLACE FUNCTION auditap.note_unnumbered(tap_ids text[], at_ms bigint) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO auditap.unnumbered_taps AS u
    SELECT n.tap_id, least(at_ms, auditap.now_ms()), least(at_ms, auditap.now_ms())
    FROM unnest(tap_ids) AS n (tap_id) ORDER BY n.tap_id
    ON CONFLICT (tap_id) DO UPDATE SET latest_ms = excluded.latest_ms
    -- Once a minute is enough to know that it is there.
    WHERE u.latest_ms < excluded.latest_ms - 60000
$$;

-- As before, but a range that is there grows: a short one must not hide a long one.
CREATE OR REPLACE FUNCTION auditap.note_lost_offsets(
    in_log text, in_partition integer, first_lost bigint, last_lost bigint, before_ms bigint, after_ms bigint
) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO auditap.lost_offsets AS l
    SELECT in_log, in_partition, first_lost, last_lost, before_ms, least(after_ms, auditap.now_ms())
    WHERE first_lost <= last_lost
    ON CONFLICT (log, partition, first) DO UPDATE SET
        last = greatest(l.last, excluded.last), to_ms = greatest(l.to_ms, excluded.to_ms)
    WHERE l.last < excluded.last
$$;

-- Every id is a UUIDv7. What is stored is not looked at again: NOT VALID.
CREATE FUNCTION auditap.is_uuidv7(id uuid) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT get_byte(uuid_send(id), 6) >> 4 = 7 AND get_byte(uuid_send(id), 8) >> 6 = 2 $$;
-- Spelled out, because a function that is not inlined costs more than the check.
ALTER TABLE auditap.audit_records ADD CONSTRAINT audit_records_id_is_uuidv7
    CHECK (get_byte(uuid_send(id), 6) >> 4 = 7 AND get_byte(uuid_send(id), 8) >> 6 = 2) NOT VALID;

-- Who noted a clamped id, and when. NULL for older rows: a default that is given with the column would claim that the migration
-- noted them.
ALTER TABLE auditap.clamped_ids ADD COLUMN noted_at timestamptz, ADD COLUMN noted_by text;
ALTER TABLE auditap.clamped_ids
    ALTER COLUMN noted_at SET DEFAULT now(),
    ALTER COLUMN noted_by SET DEFAULT session_user;

-- As before, but it notes only what clamping can give: the same id with an earlier time, for which there may be a partition, and which is
-- at most ten minutes ahead of this clock. It ignores other pairs of ids.
CREATE OR REPLACE FUNCTION auditap.note_clamped_ids(event_ids uuid[], clamped_ids uuid[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    low CONSTANT uuid := (SELECT each FROM unnest(event_ids) AS each ORDER BY each LIMIT 1);
    -- The bound of ensure_partitions. With a later one, clamped events would be ignored here and stored under their own ids.
    earliest CONSTANT uuid := auditap.first_id_at(
        greatest(least(auditap.kept_since_ms(3660), auditap.kept_since_ms(0) - 5184000000), 0)
    );
    latest CONSTANT uuid := auditap.first_id_at(auditap.now_ms() + 600000);
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
        AND auditap.is_uuidv7(given.id)
        AND substring(uuid_send(given.id) FROM 7) = substring(uuid_send(given.clamped_id) FROM 7)
        AND given.clamped_id < given.id AND given.clamped_id BETWEEN earliest AND latest
    ORDER BY given.id, given.clamped_id
    ON CONFLICT DO NOTHING;
END
$$;

-- Stores what enrichment found: only for records that were stored as partial and wait for it, only names that the record lacks and
-- has an id to look up by, and only once. Takes away the notes of `done` records that do not wait any more.
CREATE FUNCTION auditap.store_enrichments(
    ids uuid[], account_ids text[], account_names text[], zone_names text[], actor_emails text[], actor_token_names text[],
    states text[], done uuid[]
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    -- So that only the partitions between them are looked at.
    low uuid;
    high uuid;
BEGIN
    SELECT (array_agg(each ORDER BY each))[1], (array_agg(each ORDER BY each DESC))[1] INTO low, high
    FROM unnest(ids || done) AS each;
    INSERT INTO auditap.audit_enrichments (id, account_id, account_name, zone_name, actor_email, actor_token_name, state)
    SELECT r.id,
        CASE WHEN r.account_id IS NULL AND r.zone_id IS NOT NULL THEN found.account_id END,
        CASE WHEN r.account_name IS NULL AND (r.account_id IS NOT NULL OR r.zone_id IS NOT NULL) THEN found.account_name END,
        CASE WHEN r.zone_name IS NULL AND r.zone_id IS NOT NULL THEN found.zone_name END,
        CASE WHEN r.actor_email IS NULL AND r.actor_id IS NOT NULL AND r.actor_type = 'user' THEN found.actor_email END,
        CASE WHEN r.actor_token_name IS NULL AND r.actor_token_id IS NOT NULL THEN found.actor_token_name END,
        found.state
    FROM unnest(ids, account_ids, account_names, zone_names, actor_emails, actor_token_names, states)
        AS found (id, account_id, account_name, zone_name, actor_email, actor_token_name, state)
    CROSS JOIN LATERAL (
        SELECT stored.id, stored.account_id, stored.account_name, stored.zone_id, stored.zone_name, stored.actor_id, stored.actor_type,
            stored.actor_email, stored.actor_token_id, stored.actor_token_name, stored.enrichment
        FROM auditap.audit_records AS stored
        WHERE stored.id = found.id AND stored.id >= low AND stored.id <= high
        OFFSET 0
    ) AS r
    WHERE r.enrichment = 'partial' AND found.state IN ('complete', 'unresolvable')
        AND EXISTS (SELECT FROM auditap.partial_records AS p WHERE p.id = found.id)
    ORDER BY 1
    ON CONFLICT DO NOTHING;
    DELETE FROM auditap.partial_records AS p
    USING (
        SELECT each.id
        FROM unnest(done) AS each (id)
        LEFT JOIN LATERAL (
            SELECT stored.enrichment
            FROM auditap.audit_records AS stored
            WHERE stored.id = each.id AND stored.id >= low AND stored.id <= high
            OFFSET 0
        ) AS r ON true
        LEFT JOIN LATERAL (
            SELECT e.state FROM auditap.audit_enrichments AS e WHERE e.id = each.id AND e.id >= low AND e.id <= high
            OFFSET 0
        ) AS enriched ON true
        WHERE r.enrichment IS DISTINCT FROM 'partial' OR enriched.state IS NOT NULL
    ) AS finished
    WHERE p.id = finished.id;
END
$$;
REVOKE INSERT ON auditap.audit_enrichments FROM auditap_writer;
REVOKE DELETE ON auditap.partial_records FROM auditap_writer;

-- A dead letter begins unresolved.
REVOKE INSERT ON auditap.dead_letters FROM auditap_writer;
GRANT INSERT (source_log, source_partition, source_offset, reason, path, event_id, event, received_ms)
    ON auditap.dead_letters TO auditap_writer;

-- A decision about a dead letter is made once, now, by the login that makes it.
CREATE FUNCTION auditap.keep_dead_letter_decisions() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF OLD.stored_at IS NOT NULL OR OLD.discarded_at IS NOT NULL THEN
        RAISE EXCEPTION 'the dead letter is resolved' USING ERRCODE = '55000';
    END IF;
    NEW.stored_at := CASE WHEN NEW.stored_at IS NOT NULL THEN now() END;
    NEW.discarded_at := CASE WHEN NEW.discarded_at IS NOT NULL THEN now() END;
    NEW.discarded_by := CASE WHEN NEW.discarded_at IS NOT NULL THEN session_user END;
    NEW.retries := greatest(NEW.retries, OLD.retries);
    RETURN NEW;
END
$$;
CREATE TRIGGER keep_decisions BEFORE UPDATE ON auditap.dead_letters
    FOR EACH ROW EXECUTE FUNCTION auditap.keep_dead_letter_decisions();

-- Alerting may raise alerts. It may not acknowledge them, nor change the account of an alert that is raised: this function sets the
-- account that enrichment found.
CREATE FUNCTION auditap.set_alert_accounts(alerts_max integer) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH found AS (
        SELECT a.id, e.account_id
        FROM auditap.alerts AS a
        JOIN auditap.audit_enrichments AS e ON e.id = a.record_id
        WHERE a.account_id IS NULL AND e.account_id IS NOT NULL
        LIMIT least(greatest(coalesce(alerts_max, 0), 0), 1000)
    )
    UPDATE auditap.alerts AS a SET account_id = found.account_id FROM found WHERE a.id = found.id
$$;
REVOKE INSERT ON auditap.alerts FROM auditap_alerting;
REVOKE UPDATE (account_id) ON auditap.alerts FROM auditap_alerting;
REVOKE SELECT (id, account_id) ON auditap.audit_enrichments FROM auditap_alerting;
REVOKE INSERT, UPDATE, DELETE ON auditap.alert_deliveries FROM auditap_alerting;
GRANT INSERT (
    id, rule, severity, title, account_id, key, key_digest, window_start_ms, window_ms, records, record_id, record
) ON auditap.alerts TO auditap_alerting;
GRANT INSERT (alert_id, channel), UPDATE (state, attempts, due_at, outcome) ON auditap.alert_deliveries TO auditap_alerting;

-- The log API sees a token only if it can name its hash, and whoever acknowledges an alert is the token's owner.
CREATE FUNCTION auditap.find_token(sha256 bytea)
RETURNS TABLE (
    id uuid, name text, email text, accounts text[], permissions text[], expires_at timestamptz, requests_per_s real
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.id, t.name, t.email, t.accounts, t.permissions, t.expires_at, t.requests_per_s
    FROM auditap.api_tokens AS t
    WHERE t.token_sha256 = find_token.sha256 AND t.revoked_at IS NULL
$$;
REVOKE SELECT ON auditap.api_tokens FROM auditap_reader;

DROP FUNCTION auditap.acknowledge_alert(uuid, text, text, text);
-- Returns whether there is such an alert of the account; the first who acknowledged it stays.
CREATE FUNCTION auditap.acknowledge_alert(alert uuid, account text, token_sha256 bytea) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    token record;
BEGIN
    SELECT * INTO token FROM auditap.find_token(token_sha256) AS t
    WHERE t.expires_at > now() AND 'alerts:acknowledge' = ANY(t.permissions) AND (t.accounts IS NULL OR account = ANY(t.accounts));
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE auditap.alerts SET acknowledged_at = now(), acknowledged_by = coalesce(token.email, token.name)
    WHERE id = alert AND account_id = account AND acknowledged_at IS NULL;
    RETURN EXISTS (SELECT FROM auditap.alerts WHERE id = alert AND account_id = account);
END
$$;

-- As before, and rows about closed gaps. rows_max is bounded.
CREATE OR REPLACE FUNCTION auditap.prune_beside_log(before_ms bigint, keep_days integer, rows_max integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    since_ms CONSTANT bigint := greatest(least(before_ms, auditap.kept_since_ms(keep_days)), 0);
    month_ms CONSTANT bigint := 32 * 86400000::bigint;
    limit_rows CONSTANT integer := least(greatest(coalesce(rows_max, 0), 0), 5000);
    taken bigint;
    total bigint := 0;
BEGIN
    DELETE FROM auditap.partial_records WHERE id IN (
        SELECT id FROM auditap.partial_records WHERE id < auditap.first_id_at(since_ms)
        ORDER BY id LIMIT limit_rows FOR UPDATE SKIP LOCKED
    );
    GET DIAGNOSTICS taken = ROW_COUNT;
    total := total + taken;
    DELETE FROM auditap.clamped_ids WHERE event_id IN (
        SELECT event_id FROM auditap.clamped_ids WHERE clamped_id < auditap.first_id_at(greatest(since_ms - month_ms, 0))
        ORDER BY clamped_id LIMIT limit_rows FOR UPDATE SKIP LOCKED
    );
    GET DIAGNOSTICS taken = ROW_COUNT;
    total := total + taken;
    DELETE FROM auditap.closed_gaps WHERE number IN (
        SELECT number FROM auditap.closed_gaps WHERE closed_at < to_timestamp(since_ms / 1000.0)
        ORDER BY closed_at LIMIT limit_rows FOR UPDATE SKIP LOCKED
    );
    GET DIAGNOSTICS taken = ROW_COUNT;
    total := total + taken;
    DELETE FROM auditap.dead_letters WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM auditap.dead_letters WHERE dead_lettered_at < to_timestamp(since_ms / 1000.0)
        ORDER BY dead_lettered_at LIMIT limit_rows FOR UPDATE SKIP LOCKED
    ));
    GET DIAGNOSTICS taken = ROW_COUNT;
    RETURN total + taken;
END
$$;

REVOKE ALL ON FUNCTION auditap.is_uuidv7(uuid), auditap.keep_dead_letter_decisions(), auditap.set_alert_accounts(integer),
    auditap.find_token(bytea), auditap.acknowledge_alert(uuid, text, bytea),
    auditap.store_enrichments(uuid[], text[], text[], text[], text[], text[], text[], uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auditap.store_enrichments(uuid[], text[], text[], text[], text[], text[], text[], uuid[])
TO auditap_writer;
GRANT EXECUTE ON FUNCTION auditap.set_alert_accounts(integer) TO auditap_alerting;
GRANT EXECUTE ON FUNCTION auditap.find_token(bytea), auditap.acknowledge_alert(uuid, text, bytea) TO auditap_reader;
