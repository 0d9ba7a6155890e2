-- Bounds how far the heartbeats of a tap can take the watermark back, and how many of its epochs the watermark waits for.
-- Lets an operator retire a tap.

-- First, because whoever reads the view locks it before its table: in the other order the two deadlock.
DROP VIEW auditap.completeness_counts;

-- surplus: its tap had too many other epochs when its last report arrived. retired: an operator retired its tap. Heartbeats of
-- both hold nothing back; their gaps stay.
ALTER TABLE auditap.tap_epochs
    ADD COLUMN surplus boolean NOT NULL DEFAULT false,
    ADD COLUMN retired boolean NOT NULL DEFAULT false;
-- A time that is ahead would keep its epoch until then.
UPDATE auditap.tap_epochs SET latest_ms = auditap.now_ms() WHERE latest_ms > auditap.now_ms();
CREATE INDEX tap_epochs_waiting_of_tap ON auditap.tap_epochs (tap_id, waits_until_ms) WHERE NOT surplus AND NOT retired;

-- Who retired a tap, when and why. The caller chooses retired_by; login is the name of its session.
CREATE TABLE auditap.tap_retirements (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tap_id text NOT NULL,
    epochs integer NOT NULL,
    retired_at timestamptz NOT NULL DEFAULT now(),
    retired_by text NOT NULL,
    login text NOT NULL,
    reason text NOT NULL
);

-- The earliest time to which heartbeats may take the watermark. It is in auditap's time, so no clock of a tap moves it. Below the wait
-- for a gap it would end that wait. A request that is pending for longer takes the watermark back when its capture arrives.
CREATE FUNCTION auditap.watermark_floor_ms(log_ms bigint, give_up_ms bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT log_ms - greatest(3600000, give_up_ms) $$;

-- Where each epoch that the watermark waits for holds it; an epoch may have several rows. Without a search path of its own, so that
-- it is inlined; only functions that set one call it.
CREATE FUNCTION auditap.watermark_bounds(log_ms bigint, give_up_ms bigint)
RETURNS TABLE (tap_id text, epoch bigint, at_ms bigint)
LANGUAGE sql STABLE
AS $$
    WITH waiting AS (
        SELECT e.tap_id, e.epoch, e.state, e.oldest_ms, e.pending_since_ms, e.pending_from, e.seen, e.dropped,
            auditap.watermark_floor_ms(watermark_bounds.log_ms, watermark_bounds.give_up_ms) AS floor_ms
        FROM auditap.tap_epochs AS e
        WHERE e.waits_until_ms >= watermark_bounds.log_ms AND NOT e.surplus AND NOT e.retired
    ),
    -- Nearly all epochs are without a hole; for these no mark is looked up.
    holed AS (
        SELECT w.tap_id, w.epoch, w.oldest_ms, w.floor_ms,
            int8multirange(int8range(least(given_up.until, w.pending_from), w.pending_from)) - w.seen - w.dropped AS holes
        FROM waiting AS w
        CROSS JOIN LATERAL (
            SELECT coalesce(max(m.pending_from), 1) AS until
            FROM auditap.tap_marks AS m
            WHERE m.tap_id = w.tap_id AND m.epoch = w.epoch
                AND m.heard_ms < watermark_bounds.log_ms - watermark_bounds.give_up_ms
        ) AS given_up
        WHERE w.state <> 'silent' AND NOT w.seen + w.dropped @> int8range(1, greatest(w.pending_from, 1))
    )
    -- A tap that sends sequence numbers, but no heartbeat so far: until one arrives, or none is expected.
    SELECT w.tap_id, w.epoch, greatest(w.oldest_ms, w.floor_ms) FROM waiting AS w WHERE w.state = 'silent'
    UNION ALL
    SELECT w.tap_id, w.epoch, greatest(w.pending_since_ms, w.floor_ms) FROM waiting AS w WHERE w.state = 'alive'
    UNION ALL
    SELECT h.tap_id, h.epoch, greatest(coalesce(mark.pending_since_ms, h.oldest_ms), h.floor_ms)
    FROM holed AS h
    LEFT JOIN LATERAL (
        SELECT m.pending_since_ms
        FROM auditap.tap_marks AS m
        WHERE m.tap_id = h.tap_id AND m.epoch = h.epoch AND m.pending_from <= lower(h.holes)
        ORDER BY m.pending_from DESC
        LIMIT 1
    ) AS mark ON true
    WHERE NOT isempty(h.holes)
$$;

-- As before, but no heartbeat takes it below the floor, and surplus and retired epochs hold nothing. NULL where there are no others.
CREATE OR REPLACE FUNCTION auditap.complete_before(ahead_ms bigint DEFAULT 0) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH clock AS (
        SELECT received_ms + ahead_ms AS at_ms, settle_ms, give_up_ms FROM auditap.completeness_clock
    ),
    bounds AS (
        SELECT b.at_ms FROM clock CROSS JOIN LATERAL auditap.watermark_bounds(clock.at_ms, clock.give_up_ms) AS b
        UNION ALL
        SELECT oldest_ms FROM auditap.late_arrivals WHERE held_until_ms > auditap.now_ms()
        UNION ALL
        SELECT at_ms - settle_ms FROM clock
    )
    SELECT CASE
        WHEN EXISTS (SELECT FROM auditap.tap_epochs AS e WHERE NOT e.surplus AND NOT e.retired) THEN greatest(min(at_ms), 0)
    END
    FROM bounds
$$;

-- What holds the watermark, earliest first, then what is left out: epochs of taps, and the late arrivals together, which belong to no tap.
-- bound_ms: no later than this is the watermark; NULL for an epoch that is left out.
CREATE FUNCTION auditap.list_watermark_bounds(rows_max integer)
RETURNS TABLE (tap_id text, epoch bigint, state text, bound_ms bigint, surplus boolean, retired boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH holding AS (
        SELECT b.tap_id, b.epoch, min(b.at_ms) AS bound_ms
        FROM auditap.completeness_clock AS clock
        CROSS JOIN LATERAL auditap.watermark_bounds(clock.received_ms, clock.give_up_ms) AS b
        GROUP BY b.tap_id, b.epoch
    )
    SELECT e.tap_id, e.epoch,
        CASE WHEN e.state = 'alive' AND e.lease_until_ms < clock.received_ms THEN 'expired' ELSE e.state END,
        h.bound_ms, e.surplus, e.retired
    FROM auditap.tap_epochs AS e
    CROSS JOIN auditap.completeness_clock AS clock
    LEFT JOIN holding AS h ON h.tap_id = e.tap_id AND h.epoch = e.epoch
    WHERE h.tap_id IS NOT NULL OR e.retired OR e.surplus AND e.waits_until_ms >= clock.received_ms
    UNION ALL
    SELECT NULL, NULL, 'late', min(oldest_ms), false, false
    FROM auditap.late_arrivals WHERE held_until_ms > auditap.now_ms()
    HAVING count(*) > 0
    ORDER BY 4 NULLS LAST, 1, 2
    LIMIT greatest(least(rows_max, 1000), 0)
$$;

-- How many epochs of a tap the watermark waits for, counted to 1,000. Further ones are surplus. A tap that is a thousand processes at
-- once has a tap id of its own for some of them.
CREATE FUNCTION auditap.count_waiting_epochs(for_tap text, log_ms bigint) RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT count(*) FROM (
        SELECT FROM auditap.tap_epochs AS e
        WHERE e.tap_id = for_tap AND e.waits_until_ms >= log_ms AND NOT e.surplus AND NOT e.retired
        LIMIT 1000
    ) AS counted
$$;

-- As before, but retired epochs hold nothing back, the epochs of a tap are bounded, and no time of receipt is later than now.
CREATE OR REPLACE FUNCTION auditap.note_numbers(
    tap_ids text[], epochs bigint[], numbers text[], oldest bigint[], latest bigint[], received bigint[]
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = 'force_generic_plan'
AS $$
DECLARE
    clock auditap.completeness_clock;
    now_ms CONSTANT bigint := auditap.now_ms();
    late_ms bigint;
BEGIN
    -- What is stored late shows within the margin of hold_back, or not at all.
    PERFORM set_config('idle_in_transaction_session_timeout', '5000', true);
    SELECT * INTO clock FROM auditap.completeness_clock;
    SELECT min(n.oldest_ms) INTO late_ms
    FROM unnest(tap_ids, epochs, numbers, oldest) AS n (tap_id, epoch, numbers, oldest_ms)
    LEFT JOIN auditap.tap_epochs AS e ON e.tap_id = n.tap_id AND e.epoch = n.epoch
    WHERE n.oldest_ms < clock.received_ms - clock.settle_ms / 2 AND (e.seen @> n.numbers::int8multirange) IS NOT TRUE
        AND e.retired IS NOT TRUE;
    IF late_ms IS NOT NULL THEN
        PERFORM auditap.hold_back(late_ms);
    END IF;
    WITH given AS (
        SELECT n.tap_id, n.epoch, n.numbers::int8multirange AS numbers, n.oldest_ms, least(n.latest_ms, now_ms) AS latest_ms,
            least(n.received_ms, now_ms) AS heard_ms, known.epoch IS NULL AS is_new
        FROM unnest(tap_ids, epochs, numbers, oldest, latest, received)
            AS n (tap_id, epoch, numbers, oldest_ms, latest_ms, received_ms)
        LEFT JOIN auditap.tap_epochs AS known ON known.tap_id = n.tap_id AND known.epoch = n.epoch
    ),
    -- Without what this statement adds, which is counted by its place.
    waiting AS MATERIALIZED (
        SELECT tap_id, auditap.count_waiting_epochs(tap_id, clock.received_ms) AS epochs
        FROM (SELECT DISTINCT g.tap_id FROM given AS g WHERE g.is_new) AS taps
    )
    INSERT INTO auditap.tap_epochs AS e (
        tap_id, epoch, state, highest, seen, oldest_ms, latest_ms, heard_ms, lease_until_ms, waits_until_ms, surplus
    )
    SELECT g.tap_id, g.epoch, 'silent', coalesce(upper(g.numbers) - 1, 0), g.numbers, g.oldest_ms, g.latest_ms, g.heard_ms,
        g.heard_ms + 60000, g.heard_ms + 60000 + clock.give_up_ms,
        g.is_new AND w.epochs + row_number() OVER (PARTITION BY g.tap_id, g.is_new ORDER BY g.epoch) > 1000
    FROM given AS g
    LEFT JOIN waiting AS w ON w.tap_id = g.tap_id
    ORDER BY g.tap_id, g.epoch
    ON CONFLICT (tap_id, epoch) DO UPDATE SET
        seen = e.seen + excluded.seen,
        highest = greatest(e.highest, excluded.highest),
        oldest_ms = least(e.oldest_ms, excluded.oldest_ms),
        latest_ms = greatest(e.latest_ms, excluded.latest_ms)
    WHERE NOT e.seen @> excluded.seen;
END
$$;

-- As before, but bounded: by the floor, by the longest lease that the contract allows, by now, and by the epochs that a tap may have.
-- A surplus epoch is counted among them as soon as there are fewer.
CREATE OR REPLACE FUNCTION auditap.note_heartbeat(
    for_tap text, for_epoch bigint, new_beat bigint, at_ms bigint, started_ms bigint, new_highest bigint,
    new_pending_from bigint, new_pending_since_ms bigint, lease_ms bigint, new_state text, received_ms bigint,
    firsts bigint[], lasts bigint[], causes text[], froms bigint[], tos bigint[]
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    clock auditap.completeness_clock;
    was auditap.tap_epochs;
    -- A collector's clock that is ahead must not let everyone's leases run out.
    receipt_ms CONSTANT bigint := least(received_ms, auditap.now_ms());
    leased_until_ms CONSTANT bigint := receipt_ms + least(lease_ms, 86400000);
    -- Whose last number is known has nothing on its way.
    done_below CONSTANT bigint := CASE WHEN new_state = 'alive' THEN new_pending_from ELSE new_highest + 1 END;
    is_surplus boolean := false;
    floor_ms bigint;
BEGIN
    SELECT * INTO clock FROM auditap.completeness_clock;
    SELECT * INTO was FROM auditap.tap_epochs WHERE tap_id = for_tap AND epoch = for_epoch FOR UPDATE;
    IF was.tap_id IS NULL OR was.surplus THEN
        is_surplus := auditap.count_waiting_epochs(for_tap, clock.received_ms) >= 1000;
    END IF;
    floor_ms := auditap.watermark_floor_ms(clock.received_ms, clock.give_up_ms);
    IF is_surplus OR was.retired THEN
        NULL;
    ELSIF was.tap_id IS NULL OR was.beat < 0 THEN
        PERFORM auditap.hold_back(greatest(started_ms, floor_ms));
    ELSIF was.surplus OR was.waits_until_ms < clock.received_ms + clock.settle_ms
        OR new_beat > was.beat AND new_pending_since_ms < was.pending_since_ms THEN
        PERFORM auditap.hold_back(greatest(new_pending_since_ms, floor_ms));
    END IF;
    INSERT INTO auditap.tap_epochs AS e (
        tap_id, epoch, state, highest, oldest_ms, latest_ms, beat, pending_from, pending_since_ms,
        heard_ms, lease_until_ms, waits_until_ms, surplus
    )
    VALUES (
        for_tap, for_epoch, new_state, new_highest, started_ms, least(at_ms, receipt_ms), new_beat, done_below, new_pending_since_ms,
        receipt_ms, leased_until_ms, leased_until_ms + clock.give_up_ms, is_surplus
    )
    ON CONFLICT (tap_id, epoch) DO UPDATE SET
        state = CASE WHEN e.state IN ('silent', 'alive') THEN excluded.state ELSE e.state END,
        highest = greatest(e.highest, excluded.highest),
        oldest_ms = least(e.oldest_ms, excluded.oldest_ms),
        latest_ms = greatest(e.latest_ms, excluded.latest_ms),
        beat = greatest(e.beat, excluded.beat),
        pending_from = greatest(e.pending_from, excluded.pending_from),
        pending_since_ms = CASE WHEN excluded.beat > e.beat THEN excluded.pending_since_ms ELSE e.pending_since_ms END,
        heard_ms = greatest(e.heard_ms, excluded.heard_ms),
        lease_until_ms = greatest(e.lease_until_ms, excluded.lease_until_ms),
        waits_until_ms = greatest(e.waits_until_ms, excluded.waits_until_ms),
        surplus = e.surplus AND excluded.surplus;
    INSERT INTO auditap.tap_marks AS m (tap_id, epoch, pending_from, pending_since_ms, by_ms, beat, heard_ms)
    VALUES (for_tap, for_epoch, done_below, new_pending_since_ms, at_ms, new_beat, receipt_ms)
    ON CONFLICT (tap_id, epoch, pending_from) DO UPDATE SET
        pending_since_ms = CASE WHEN excluded.beat > m.beat THEN excluded.pending_since_ms ELSE m.pending_since_ms END,
        by_ms = least(m.by_ms, excluded.by_ms),
        beat = greatest(m.beat, excluded.beat),
        heard_ms = least(m.heard_ms, excluded.heard_ms);
    PERFORM auditap.note_drops(for_tap, for_epoch, firsts, lasts, causes, froms, tos);
    -- A mark with no hole on either side bounds nothing.
    DELETE FROM auditap.tap_marks AS m
    USING auditap.tap_epochs AS e, (
        SELECT pending_from,
            lag(pending_from, 1, 1::bigint) OVER (ORDER BY pending_from) AS before,
            lead(pending_from) OVER (ORDER BY pending_from) AS after
        FROM auditap.tap_marks WHERE tap_id = for_tap AND epoch = for_epoch
    ) AS beside
    WHERE m.tap_id = for_tap AND m.epoch = for_epoch AND m.pending_from = beside.pending_from
        AND e.tap_id = for_tap AND e.epoch = for_epoch
        AND beside.after IS NOT NULL
        AND e.seen + e.dropped @> int8range(beside.before, beside.after);
END
$$;

-- As before, and the epochs that are left out: surplus ones while the watermark would wait for them, retired ones until they are forgotten.
CREATE VIEW auditap.completeness_counts AS
SELECT
    (SELECT count(*) FROM auditap.tap_epochs AS e, auditap.completeness_clock AS c
     WHERE e.state = 'alive' AND e.lease_until_ms >= c.received_ms) AS taps_alive,
    (SELECT count(*) FROM auditap.tap_epochs AS e, auditap.completeness_clock AS c
     WHERE e.state IN ('killed', 'lost') OR e.state = 'alive' AND e.lease_until_ms < c.received_ms) AS taps_expired,
    (SELECT count(*) FROM auditap.unnumbered_taps) AS taps_unnumbered,
    (SELECT count(*) FROM auditap.tap_epochs AS e, auditap.completeness_clock AS c
     WHERE e.surplus AND NOT e.retired AND e.waits_until_ms >= c.received_ms) AS taps_surplus,
    (SELECT count(*) FROM auditap.tap_epochs WHERE retired) AS taps_retired,
    count(*) AS gaps,
    coalesce(sum(count), 0)::bigint AS missing
FROM auditap.completeness_gaps
WHERE cause <> 'offsets_expired';
GRANT SELECT ON auditap.completeness_counts TO auditap_reader, auditap_writer;

-- Retires the epochs that a tap has now, and leaves a row about it; a later epoch counts again. Returns how many there were, 0 if
-- the tap is unknown or retired already.
CREATE FUNCTION auditap.retire_tap(for_tap text, by_whom text, why text) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed integer;
BEGIN
    IF coalesce(btrim(by_whom), '') = '' OR coalesce(btrim(why), '') = '' THEN
        RAISE EXCEPTION 'say who retires the tap, and why' USING ERRCODE = '22023';
    END IF;
    IF length(by_whom) > 200 OR length(why) > 2000 THEN
        RAISE EXCEPTION 'who retires the tap has 200 characters at most, the reason 2,000' USING ERRCODE = '22023';
    END IF;
    -- In the order in which batches lock them.
    PERFORM FROM auditap.tap_epochs WHERE tap_id = for_tap AND NOT retired ORDER BY epoch FOR UPDATE;
    UPDATE auditap.tap_epochs SET retired = true WHERE tap_id = for_tap AND NOT retired;
    GET DIAGNOSTICS changed = ROW_COUNT;
    IF changed > 0 THEN
        INSERT INTO auditap.tap_retirements (tap_id, epochs, retired_by, login, reason)
        VALUES (for_tap, changed, by_whom, session_user, why);
    END IF;
    RETURN changed;
END
$$;

REVOKE ALL ON FUNCTION auditap.watermark_floor_ms(bigint, bigint), auditap.watermark_bounds(bigint, bigint),
    auditap.list_watermark_bounds(integer), auditap.count_waiting_epochs(text, bigint),
    auditap.retire_tap(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auditap.list_watermark_bounds(integer), auditap.retire_tap(text, text, text) TO auditap_operator;
GRANT SELECT ON auditap.tap_retirements TO auditap_operator, auditap_reader;
