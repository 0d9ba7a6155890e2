-- What there should be beside what there is: per start of a tap which numbers it gave, dropped and has on their way, and
-- which of them are stored or buried. Gaps and "complete before" are derived from it; nothing is kept that could disagree.

-- One row: the log's own time, the latest at which a collector received anything that reports, and the settings. Leases
-- run out by this clock: while nothing is ingested nothing expires.
CREATE TABLE auditap.completeness_clock (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    received_ms bigint NOT NULL DEFAULT 0,
    settle_ms bigint NOT NULL DEFAULT 20000,
    give_up_ms bigint NOT NULL DEFAULT 300000,
    hold_ms bigint NOT NULL DEFAULT 900000
);
INSERT INTO auditap.completeness_clock DEFAULT VALUES;

-- One row per start of a numbering tap. seen: stored, buried, or excluded by configuration.
CREATE TABLE auditap.tap_epochs (
    tap_id text NOT NULL,
    epoch bigint NOT NULL,
    state text NOT NULL,
    highest bigint NOT NULL DEFAULT 0,
    seen int8multirange NOT NULL DEFAULT '{}',
    dropped int8multirange NOT NULL DEFAULT '{}',
    oldest_ms bigint NOT NULL,
    latest_ms bigint NOT NULL,
    beat bigint NOT NULL DEFAULT -1,
    pending_from bigint NOT NULL DEFAULT 1,
    pending_since_ms bigint,
    heard_ms bigint NOT NULL,
    lease_until_ms bigint NOT NULL,
    waits_until_ms bigint NOT NULL,
    PRIMARY KEY (tap_id, epoch)
) WITH (fillfactor = 50);
CREATE INDEX tap_epochs_waiting ON auditap.tap_epochs (waits_until_ms);

-- What heartbeats promised: at heard_ms the tap had done with all numbers below pending_from, and no capture with that
-- number or a higher one is earlier than pending_since_ms, none with a lower one later than by_ms. Kept around holes alone, and the last one.
CREATE TABLE auditap.tap_marks (
    tap_id text NOT NULL,
    epoch bigint NOT NULL,
    pending_from bigint NOT NULL,
    pending_since_ms bigint NOT NULL,
    by_ms bigint NOT NULL,
    beat bigint NOT NULL,
    heard_ms bigint NOT NULL,
    PRIMARY KEY (tap_id, epoch, pending_from),
    FOREIGN KEY (tap_id, epoch) REFERENCES auditap.tap_epochs ON DELETE CASCADE
);

-- Numbers whose captures were given up, by tap or collector; of two that say it the first stands.
CREATE TABLE auditap.tap_drops (
    tap_id text NOT NULL,
    epoch bigint NOT NULL,
    first bigint NOT NULL,
    last bigint NOT NULL,
    cause text NOT NULL,
    from_ms bigint NOT NULL,
    to_ms bigint NOT NULL,
    PRIMARY KEY (tap_id, epoch, first),
    FOREIGN KEY (tap_id, epoch) REFERENCES auditap.tap_epochs ON DELETE CASCADE
);

-- Holes of taps with so many that the lowest are kept as their sum: count numbers between first and last.
CREATE TABLE auditap.tap_folded_gaps (
    tap_id text NOT NULL,
    epoch bigint NOT NULL,
    first bigint NOT NULL,
    last bigint NOT NULL,
    count bigint NOT NULL,
    cause text NOT NULL,
    from_ms bigint NOT NULL,
    to_ms bigint NOT NULL,
    PRIMARY KEY (tap_id, epoch, first, cause),
    FOREIGN KEY (tap_id, epoch) REFERENCES auditap.tap_epochs ON DELETE CASCADE
);

-- Offsets that the log no longer held when they were to be read.
CREATE TABLE auditap.lost_offsets (
    log text NOT NULL,
    partition integer NOT NULL,
    first bigint NOT NULL,
    last bigint NOT NULL,
    from_ms bigint,
    to_ms bigint NOT NULL,
    PRIMARY KEY (log, partition, first)
);

-- Times that "complete before" had passed when something of them arrived: it is held back there for a while, so that
-- whoever polls comes by again.
CREATE TABLE auditap.late_arrivals (
    held_until_ms bigint NOT NULL,
    oldest_ms bigint NOT NULL
);

-- Taps whose captures have no numbers: of these completeness says nothing.
CREATE TABLE auditap.unnumbered_taps (
    tap_id text PRIMARY KEY,
    first_ms bigint NOT NULL,
    latest_ms bigint NOT NULL
);

CREATE FUNCTION auditap.now_ms() RETURNS bigint
LANGUAGE sql VOLATILE
AS $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint $$;

-- The time before which everything is there that numbering taps captured, less what is a gap; NULL where there is no
-- numbering tap. ahead_ms: as if it were so much later.
CREATE FUNCTION auditap.complete_before(ahead_ms bigint DEFAULT 0) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH clock AS (
        SELECT received_ms + ahead_ms AS at_ms, settle_ms, give_up_ms FROM auditap.completeness_clock
    ),
    waiting AS (
        SELECT e.tap_id, e.epoch, e.state, e.oldest_ms, e.pending_since_ms,
            int8multirange(int8range(least(given_up.until, e.pending_from), e.pending_from)) - e.seen - e.dropped AS holes
        FROM clock
        JOIN auditap.tap_epochs AS e ON e.waits_until_ms >= clock.at_ms
        CROSS JOIN LATERAL (
            SELECT coalesce(max(m.pending_from), 1) AS until
            FROM auditap.tap_marks AS m
            WHERE m.tap_id = e.tap_id AND m.epoch = e.epoch AND m.heard_ms < clock.at_ms - clock.give_up_ms
        ) AS given_up
    ),
    bounds AS (
        -- A tap that has numbers and says nothing of itself: until its first word is there, or none is expected.
        SELECT oldest_ms AS at_ms FROM waiting WHERE state = 'silent'
        UNION ALL
        SELECT pending_since_ms FROM waiting WHERE state = 'alive'
        UNION ALL
        SELECT coalesce(mark.pending_since_ms, w.oldest_ms)
        FROM waiting AS w
        LEFT JOIN LATERAL (
            SELECT m.pending_since_ms
            FROM auditap.tap_marks AS m
            WHERE m.tap_id = w.tap_id AND m.epoch = w.epoch AND m.pending_from <= lower(w.holes)
            ORDER BY m.pending_from DESC
            LIMIT 1
        ) AS mark ON true
        WHERE w.state <> 'silent' AND NOT isempty(w.holes)
        UNION ALL
        SELECT oldest_ms FROM auditap.late_arrivals WHERE held_until_ms > auditap.now_ms()
        UNION ALL
        SELECT at_ms - settle_ms FROM clock
    )
    SELECT CASE WHEN EXISTS (SELECT FROM auditap.tap_epochs) THEN greatest(min(at_ms), 0) END FROM bounds
$$;

-- Below which number everything should be there: what the tap had done with a while ago, or all of it where it is gone.
CREATE VIEW auditap.tap_due AS
SELECT e.*,
    e.state = 'alive' AND e.lease_until_ms < clock.received_ms AS expired,
    CASE
        WHEN e.state IN ('killed', 'lost') OR e.lease_until_ms < clock.received_ms THEN e.highest + 1
        ELSE (
            SELECT coalesce(max(m.pending_from), 1)
            FROM auditap.tap_marks AS m
            WHERE m.tap_id = e.tap_id AND m.epoch = e.epoch AND m.heard_ms < clock.received_ms - clock.settle_ms
        )
    END AS until
FROM auditap.tap_epochs AS e
CROSS JOIN auditap.completeness_clock AS clock;

-- Every range of numbers, or of offsets, that is not there. last and count NULL: open, nobody knows how many. What
-- arrives after all leaves the range by itself.
CREATE VIEW auditap.completeness_gaps AS
SELECT d.tap_id, d.epoch, NULL::text AS log, NULL::integer AS partition,
    lower(hole) AS first, upper(hole) - 1 AS last, upper(hole) - lower(hole) AS count,
    d.from_ms, d.to_ms, 'dropped:' || d.cause AS cause
FROM auditap.tap_drops AS d
JOIN auditap.tap_epochs AS e ON e.tap_id = d.tap_id AND e.epoch = d.epoch
CROSS JOIN LATERAL unnest(int8multirange(int8range(d.first, d.last, '[]')) - e.seen) AS hole
UNION ALL
SELECT due.tap_id, due.epoch, NULL, NULL, lower(hole), upper(hole) - 1, upper(hole) - lower(hole),
    coalesce((
        SELECT m.pending_since_ms
        FROM auditap.tap_marks AS m
        WHERE m.tap_id = due.tap_id AND m.epoch = due.epoch AND m.pending_from <= lower(hole)
        ORDER BY m.pending_from DESC
        LIMIT 1
    ), due.oldest_ms),
    coalesce((
        SELECT m.by_ms
        FROM auditap.tap_marks AS m
        WHERE m.tap_id = due.tap_id AND m.epoch = due.epoch AND m.pending_from >= upper(hole)
        ORDER BY m.pending_from
        LIMIT 1
    ), due.latest_ms),
    CASE WHEN due.expired OR due.state IN ('killed', 'lost') THEN 'unknown' ELSE 'missing' END
FROM auditap.tap_due AS due
CROSS JOIN LATERAL unnest(int8multirange(int8range(1, greatest(due.until, 1))) - due.seen - due.dropped) AS hole
UNION ALL
SELECT due.tap_id, due.epoch, NULL, NULL, due.highest + 1, NULL, NULL, due.latest_ms, NULL, 'unknown'
FROM auditap.tap_due AS due
WHERE due.expired OR due.state = 'lost'
UNION ALL
SELECT tap_id, epoch, NULL, NULL, first, last, count, from_ms, to_ms, cause FROM auditap.tap_folded_gaps
UNION ALL
SELECT NULL, NULL, log, partition, first, last, last - first + 1, coalesce(from_ms, 0), to_ms, 'offsets_expired'
FROM auditap.lost_offsets;

-- How many taps are heard, how many are not heard any more, how many do not number; gaps and what they count.
CREATE VIEW auditap.completeness_counts AS
SELECT
    (SELECT count(*) FROM auditap.tap_epochs AS e, auditap.completeness_clock AS c
     WHERE e.state = 'alive' AND e.lease_until_ms >= c.received_ms) AS taps_alive,
    (SELECT count(*) FROM auditap.tap_epochs AS e, auditap.completeness_clock AS c
     WHERE e.state IN ('killed', 'lost') OR e.state = 'alive' AND e.lease_until_ms < c.received_ms) AS taps_expired,
    (SELECT count(*) FROM auditap.unnumbered_taps) AS taps_unnumbered,
    count(*) AS gaps,
    coalesce(sum(count), 0)::bigint AS missing
FROM auditap.completeness_gaps
WHERE cause <> 'offsets_expired';

-- Holds "complete before" back where it had passed a time that something arrives of. The margin is for transactions that
-- are under way while others look; sessions that idle longer in one are ended.
CREATE FUNCTION auditap.hold_back(oldest_ms bigint) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO auditap.late_arrivals (held_until_ms, oldest_ms)
    SELECT auditap.now_ms() + clock.hold_ms, hold_back.oldest_ms
    FROM auditap.completeness_clock AS clock
    WHERE hold_back.oldest_ms < auditap.complete_before(clock.settle_ms / 2)
$$;

-- Notes numbers as seen; the last step of the transaction that stores or buries them. A row for each start of a tap, in
-- rising order: its numbers, their earliest and latest time of action. received_ms: when a collector took the latest.
CREATE FUNCTION auditap.note_numbers(
    tap_ids text[], epochs bigint[], numbers text[], oldest bigint[], latest bigint[], received bigint[]
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    clock auditap.completeness_clock;
    late_ms bigint;
BEGIN
    -- What is stored late shows within the margin of hold_back, or not at all.
    PERFORM set_config('idle_in_transaction_session_timeout', '5000', true);
    SELECT * INTO clock FROM auditap.completeness_clock;
    SELECT min(n.oldest_ms) INTO late_ms
    FROM unnest(tap_ids, epochs, numbers, oldest) AS n (tap_id, epoch, numbers, oldest_ms)
    LEFT JOIN auditap.tap_epochs AS e ON e.tap_id = n.tap_id AND e.epoch = n.epoch
    WHERE n.oldest_ms < clock.received_ms - clock.settle_ms / 2 AND (e.seen @> n.numbers::int8multirange) IS NOT TRUE;
    IF late_ms IS NOT NULL THEN
        PERFORM auditap.hold_back(late_ms);
    END IF;
    INSERT INTO auditap.tap_epochs AS e (
        tap_id, epoch, state, highest, seen, oldest_ms, latest_ms, heard_ms, lease_until_ms, waits_until_ms
    )
    SELECT n.tap_id, n.epoch, 'silent', coalesce(upper(n.numbers::int8multirange) - 1, 0), n.numbers::int8multirange,
        n.oldest_ms, n.latest_ms, n.received_ms, n.received_ms + 60000, n.received_ms + 60000 + clock.give_up_ms
    FROM unnest(tap_ids, epochs, numbers, oldest, latest, received)
        AS n (tap_id, epoch, numbers, oldest_ms, latest_ms, received_ms)
    ORDER BY n.tap_id, n.epoch
    ON CONFLICT (tap_id, epoch) DO UPDATE SET
        seen = e.seen + excluded.seen,
        highest = greatest(e.highest, excluded.highest),
        oldest_ms = least(e.oldest_ms, excluded.oldest_ms),
        latest_ms = greatest(e.latest_ms, excluded.latest_ms)
    WHERE NOT e.seen @> excluded.seen;
END
$$;

-- Adds to what was given up: first, last, cause, from_ms and to_ms of each range.
CREATE FUNCTION auditap.note_drops(
    for_tap text, for_epoch bigint, firsts bigint[], lasts bigint[], causes text[], froms bigint[], tos bigint[]
) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known int8multirange;
    each record;
BEGIN
    SELECT dropped INTO known FROM auditap.tap_epochs WHERE tap_id = for_tap AND epoch = for_epoch FOR UPDATE;
    FOR each IN
        SELECT * FROM unnest(firsts, lasts, causes, froms, tos) AS d (first, last, cause, from_ms, to_ms)
    LOOP
        INSERT INTO auditap.tap_drops (tap_id, epoch, first, last, cause, from_ms, to_ms)
        SELECT for_tap, for_epoch, lower(fresh), upper(fresh) - 1, each.cause, each.from_ms, each.to_ms
        FROM unnest(int8multirange(int8range(each.first, each.last, '[]')) - known) AS fresh;
        known := known + int8multirange(int8range(each.first, each.last, '[]'));
    END LOOP;
    UPDATE auditap.tap_epochs SET dropped = known
    WHERE tap_id = for_tap AND epoch = for_epoch AND NOT dropped @> known;
END
$$;

-- Notes what a collector counted: numbers excluded (as a multirange) and given up.
CREATE FUNCTION auditap.note_count(
    for_tap text, for_epoch bigint, excluded text, at_ms bigint,
    firsts bigint[], lasts bigint[], causes text[], froms bigint[], tos bigint[]
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM auditap.note_numbers(
        ARRAY[for_tap], ARRAY[for_epoch], ARRAY[excluded], ARRAY[at_ms], ARRAY[at_ms], ARRAY[at_ms]
    );
    PERFORM auditap.note_drops(for_tap, for_epoch, firsts, lasts, causes, froms, tos);
END
$$;

-- Notes a heartbeat. Heartbeats come in any order and more than once; what each says of its numbers stays true.
CREATE FUNCTION auditap.note_heartbeat(
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
    -- Whose last number is known has nothing on its way.
    done_below CONSTANT bigint := CASE WHEN new_state = 'alive' THEN new_pending_from ELSE new_highest + 1 END;
BEGIN
    SELECT * INTO clock FROM auditap.completeness_clock;
    SELECT * INTO was FROM auditap.tap_epochs WHERE tap_id = for_tap AND epoch = for_epoch FOR UPDATE;
    IF was.tap_id IS NULL OR was.beat < 0 THEN
        PERFORM auditap.hold_back(started_ms);
    ELSIF was.waits_until_ms < clock.received_ms + clock.settle_ms
        OR new_beat > was.beat AND new_pending_since_ms < was.pending_since_ms THEN
        PERFORM auditap.hold_back(new_pending_since_ms);
    END IF;
    INSERT INTO auditap.tap_epochs AS e (
        tap_id, epoch, state, highest, oldest_ms, latest_ms, beat, pending_from, pending_since_ms,
        heard_ms, lease_until_ms, waits_until_ms
    )
    VALUES (
        for_tap, for_epoch, new_state, new_highest, started_ms, at_ms, new_beat, done_below, new_pending_since_ms,
        heard, heard + lease_ms, heard + lease_ms + clock.give_up_ms
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

-- Moves the log's own time on to what a collector's clock said, never beyond ours.
CREATE FUNCTION auditap.note_time(received_ms bigint) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE auditap.completeness_clock AS clock
    SET received_ms = greatest(clock.received_ms, least(note_time.received_ms, auditap.now_ms()))
    WHERE clock.received_ms < least(note_time.received_ms, auditap.now_ms())
$$;

-- Notes a range of offsets that the log no longer held.
CREATE FUNCTION auditap.note_lost_offsets(
    in_log text, in_partition integer, first_lost bigint, last_lost bigint, before_ms bigint, after_ms bigint
) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO auditap.lost_offsets VALUES (in_log, in_partition, first_lost, last_lost, before_ms, after_ms)
    ON CONFLICT DO NOTHING
$$;

-- Notes taps without numbers.
CREATE FUNCTION auditap.note_unnumbered(tap_ids text[], at_ms bigint) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO auditap.unnumbered_taps AS u
    SELECT tap_id, at_ms, at_ms FROM unnest(tap_ids) AS n (tap_id) ORDER BY tap_id
    ON CONFLICT (tap_id) DO UPDATE SET latest_ms = excluded.latest_ms
    -- Once a minute is enough to know that it is there.
    WHERE u.latest_ms < excluded.latest_ms - 60000
$$;

-- Sets how long is waited, and keeps all of this small: taps not heard of for keep_ms are forgotten, and of a tap with more
-- than holes_max holes the lower ones are kept as their sum.
CREATE FUNCTION auditap.tidy_completeness(
    new_settle_ms bigint, new_give_up_ms bigint, new_hold_ms bigint, keep_ms bigint, holes_max integer
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    one record;
    fold bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('auditap.tidy_completeness')) THEN
        RETURN;
    END IF;
    UPDATE auditap.completeness_clock
    SET settle_ms = new_settle_ms, give_up_ms = new_give_up_ms, hold_ms = new_hold_ms
    WHERE (settle_ms, give_up_ms, hold_ms) IS DISTINCT FROM (new_settle_ms, new_give_up_ms, new_hold_ms);
    DELETE FROM auditap.late_arrivals WHERE held_until_ms <= auditap.now_ms();
    DELETE FROM auditap.unnumbered_taps WHERE latest_ms < auditap.now_ms() - keep_ms;
    DELETE FROM auditap.lost_offsets WHERE to_ms < auditap.now_ms() - keep_ms;
    DELETE FROM auditap.tap_epochs WHERE heard_ms < auditap.now_ms() - keep_ms AND latest_ms < auditap.now_ms() - keep_ms;
    FOR one IN
        SELECT tap_id, epoch FROM auditap.tap_epochs
        WHERE (SELECT count(*) FROM unnest(seen)) > holes_max ORDER BY tap_id, epoch
    LOOP
        PERFORM FROM auditap.tap_epochs WHERE tap_id = one.tap_id AND epoch = one.epoch FOR UPDATE;
        SELECT least(lower(run), due.until) INTO fold
        FROM auditap.tap_due AS due, unnest(due.seen) WITH ORDINALITY AS runs (run, place)
        WHERE due.tap_id = one.tap_id AND due.epoch = one.epoch AND place = (SELECT count(*) FROM unnest(due.seen)) - holes_max / 2;
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
END
$$;

DO $$
DECLARE
    routine text;
BEGIN
    FOREACH routine IN ARRAY ARRAY[
        'note_numbers', 'note_drops', 'note_count', 'note_heartbeat', 'note_time', 'note_lost_offsets', 'note_unnumbered',
        'tidy_completeness', 'hold_back', 'complete_before', 'now_ms'
    ] LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION auditap.%I FROM PUBLIC', routine);
    END LOOP;
    FOREACH routine IN ARRAY ARRAY[
        'note_numbers', 'note_count', 'note_heartbeat', 'note_time', 'note_lost_offsets', 'note_unnumbered',
        'tidy_completeness', 'complete_before'
    ] LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION auditap.%I TO auditap_writer', routine);
    END LOOP;
END
$$;
GRANT EXECUTE ON FUNCTION auditap.complete_before(bigint) TO auditap_reader;
GRANT SELECT ON auditap.completeness_gaps TO auditap_reader;
GRANT SELECT ON auditap.completeness_counts TO auditap_reader, auditap_writer;
