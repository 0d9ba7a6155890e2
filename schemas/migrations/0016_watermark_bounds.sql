-- Bounds how far one tap can take the watermark back, and how many of its epochs are looked at; lets an operator retire a tap.

-- first_heard_ms: receipt of the first thing heard of the epoch. surplus: its tap had too many epochs when it began. retired: an operator
-- retired its tap. The reports of both hold nothing back; their gaps stay.
ALTER TABLE auditap.tap_epochs
    ADD COLUMN first_heard_ms bigint,
    ADD COLUMN surplus boolean NOT NULL DEFAULT false,
    ADD COLUMN retired boolean NOT NULL DEFAULT false;
UPDATE auditap.tap_epochs SET first_heard_ms = least(oldest_ms, heard_ms);
ALTER TABLE auditap.tap_epochs ALTER COLUMN first_heard_ms SET NOT NULL;
CREATE INDEX tap_epochs_waiting_of_tap ON auditap.tap_epochs (tap_id, waits_until_ms) WHERE NOT surplus AND NOT retired;

-- Who retired a tap, when and why. retired_by is what the caller said, login whom the server knows.
CREATE TABLE auditap.tap_retirements (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tap_id text NOT NULL,
    epochs integer NOT NULL,
    retired_at timestamptz NOT NULL DEFAULT now(),
    retired_by text NOT NULL,
    login text NOT NULL,
    reason text NOT NULL
);

-- The earliest time to which reports of an epoch may take the watermark: an hour before the log's time, and ten minutes before the
-- first receipt. A request that is pending for longer takes the watermark back when its capture arrives.
CREATE FUNCTION auditap.watermark_floor_ms(first_heard_ms bigint, log_ms bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT greatest(first_heard_ms - 600000, log_ms - 3600000) $$;

-- As before, but no tap takes it below its floor, and surplus and retired epochs hold nothing.
CREATE OR REPLACE FUNCTION auditap.complete_before(ahead_ms bigint DEFAULT 0) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH clock AS (
        SELECT received_ms + ahead_ms AS at_ms, settle_ms, give_up_ms FROM auditap.completeness_clock
    ),
    waiting AS (
        SELECT e.tap_id, e.epoch, e.state, e.oldest_ms, e.pending_since_ms, e.pending_from, e.seen, e.dropped,
            auditap.watermark_floor_ms(e.first_heard_ms, clock.at_ms) AS floor_ms
        FROM clock
        JOIN auditap.tap_epochs AS e ON e.waits_until_ms >= clock.at_ms
        WHERE NOT e.surplus AND NOT e.retired
    ),
    -- Nearly all epochs are without a hole; for these no mark is looked up.
    holed AS (
        SELECT w.tap_id, w.epoch, w.oldest_ms, w.floor_ms,
            int8multirange(int8range(least(given_up.until, w.pending_from), w.pending_from)) - w.seen - w.dropped AS holes
        FROM waiting AS w
        CROSS JOIN clock
        CROSS JOIN LATERAL (
            SELECT coalesce(max(m.pending_from), 1) AS until
            FROM auditap.tap_marks AS m
            WHERE m.tap_id = w.tap_id AND m.epoch = w.epoch AND m.heard_ms < clock.at_ms - clock.give_up_ms
        ) AS given_up
        WHERE w.state <> 'silent' AND NOT w.seen + w.dropped @> int8range(1, greatest(w.pending_from, 1))
    ),
    bounds AS (
        -- A tap that has numbers and says nothing of itself: until its first word is there, or none is expected.
        SELECT greatest(oldest_ms, floor_ms) AS at_ms FROM waiting WHERE state = 'silent'
        UNION ALL
        SELECT greatest(pending_since_ms, floor_ms) FROM waiting WHERE state = 'alive'
        UNION ALL
        SELECT greatest(coalesce(mark.pending_since_ms, h.oldest_ms), h.floor_ms)
        FROM holed AS h
        LEFT JOIN LATERAL (
            SELECT m.pending_since_ms
            FROM auditap.tap_marks AS m
            WHERE m.tap_id = h.tap_id AND m.epoch = h.epoch AND m.pending_from <= lower(h.holes)
            ORDER BY m.pending_from DESC
            LIMIT 1
        ) AS mark ON true
        WHERE NOT isempty(h.holes)
        UNION ALL
        SELECT oldest_ms FROM auditap.late_arrivals WHERE held_until_ms > auditap.now_ms()
        UNION ALL
        SELECT at_ms - settle_ms FROM clock
    )
    SELECT CASE WHEN EXISTS (SELECT FROM auditap.tap_epochs) THEN greatest(min(at_ms), 0) END FROM bounds
$$;

-- Whether a tap has so many epochs that wait that another one is surplus. A tap that is a thousand processes at once has a tap id of
-- its own for some of them.
CREATE FUNCTION auditap.has_epochs_enough(for_tap text, log_ms bigint) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT count(*) >= 1000 FROM (
        SELECT FROM auditap.tap_epochs AS e
        WHERE e.tap_id = for_tap AND e.waits_until_ms >= log_ms AND NOT e.surplus AND NOT e.retired
        LIMIT 1000
    ) AS counted
$$;

-- As before, but retired epochs hold nothing back, and no time of receipt is later than now.
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
    INSERT INTO auditap.tap_epochs AS e (
        tap_id, epoch, state, highest, seen, oldest_ms, latest_ms, heard_ms, first_heard_ms, lease_until_ms, waits_until_ms,
        surplus
    )
    SELECT n.tap_id, n.epoch, 'silent', coalesce(upper(n.numbers::int8multirange) - 1, 0), n.numbers::int8multirange,
        n.oldest_ms, n.latest_ms, n.heard_ms, n.heard_ms, n.heard_ms + 60000, n.heard_ms + 60000 + clock.give_up_ms,
        known.epoch IS NULL AND auditap.has_epochs_enough(n.tap_id, clock.received_ms)
    FROM (
        SELECT given.tap_id, given.epoch, given.numbers, given.oldest_ms, given.latest_ms,
            least(given.received_ms, now_ms) AS heard_ms
        FROM unnest(tap_ids, epochs, numbers, oldest, latest, received)
            AS given (tap_id, epoch, numbers, oldest_ms, latest_ms, received_ms)
    ) AS n
    LEFT JOIN auditap.tap_epochs AS known ON known.tap_id = n.tap_id AND known.epoch = n.epoch
    ORDER BY n.tap_id, n.epoch
    ON CONFLICT (tap_id, epoch) DO UPDATE SET
        seen = e.seen + excluded.seen,
        highest = greatest(e.highest, excluded.highest),
        oldest_ms = least(e.oldest_ms, excluded.oldest_ms),
        latest_ms = greatest(e.latest_ms, excluded.latest_ms)
    WHERE NOT e.seen @> excluded.seen;
END
$$;

-- As before, but bounded: by the epoch's floor, by the longest lease that the contract allows, and by the epochs that a tap may have.
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
    heard CONSTANT bigint := least(received_ms, auditap.now_ms());
    leased_until_ms CONSTANT bigint := heard + least(lease_ms, 86400000);
    -- Whose last number is known has nothing on its way.
    done_below CONSTANT bigint := CASE WHEN new_state = 'alive' THEN new_pending_from ELSE new_highest + 1 END;
    is_surplus boolean := false;
    floor_ms bigint;
BEGIN
    SELECT * INTO clock FROM auditap.completeness_clock;
    SELECT * INTO was FROM auditap.tap_epochs WHERE tap_id = for_tap AND epoch = for_epoch FOR UPDATE;
    IF was.tap_id IS NULL THEN
        is_surplus := auditap.has_epochs_enough(for_tap, clock.received_ms);
    END IF;
    floor_ms := auditap.watermark_floor_ms(coalesce(was.first_heard_ms, heard), clock.received_ms);
    IF is_surplus OR was.surplus OR was.retired THEN
        NULL;
    ELSIF was.tap_id IS NULL OR was.beat < 0 THEN
        PERFORM auditap.hold_back(greatest(started_ms, floor_ms));
    ELSIF was.waits_until_ms < clock.received_ms + clock.settle_ms
        OR new_beat > was.beat AND new_pending_since_ms < was.pending_since_ms THEN
        PERFORM auditap.hold_back(greatest(new_pending_since_ms, floor_ms));
    END IF;
    INSERT INTO auditap.tap_epochs AS e (
        tap_id, epoch, state, highest, oldest_ms, latest_ms, beat, pending_from, pending_since_ms,
        heard_ms, first_heard_ms, lease_until_ms, waits_until_ms, surplus
    )
    VALUES (
        for_tap, for_epoch, new_state, new_highest, started_ms, at_ms, new_beat, done_below, new_pending_since_ms,
        heard, heard, leased_until_ms, leased_until_ms + clock.give_up_ms, is_surplus
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
        waits_until_ms = greatest(e.waits_until_ms, excluded.waits_until_ms);
    INSERT INTO auditap.tap_marks AS m (tap_id, epoch, pending_from, pending_since_ms, by_ms, beat, heard_ms)
    VALUES (for_tap, for_epoch, done_below, new_pending_since_ms, at_ms, new_beat, heard)
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

-- Retires the epochs that a tap has now, and leaves a row about it; returns how many there were, 0 if the tap is unknown or retired already. A later
-- epoch counts again.
CREATE FUNCTION auditap.retire_tap(for_tap text, by_whom text, why text) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed integer;
BEGIN
    IF coalesce(btrim(by_whom), '') = '' OR coalesce(btrim(why), '') = '' THEN
        RAISE EXCEPTION 'say who retires the tap, and why' USING ERRCODE = '22023';
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

REVOKE ALL ON FUNCTION auditap.watermark_floor_ms(bigint, bigint), auditap.has_epochs_enough(text, bigint),
    auditap.retire_tap(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auditap.retire_tap(text, text, text) TO auditap_operator;
GRANT SELECT ON auditap.tap_retirements TO auditap_operator, auditap_reader;
