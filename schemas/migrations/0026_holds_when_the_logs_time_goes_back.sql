-- The watermark stays back for its hold also where it is the log's own time that goes back, and where an earlier hold ends while something
-- late is being stored.

-- As before, but no hold counts that ends within ahead_ms: what is stored late may become visible only after it.
CREATE OR REPLACE FUNCTION auditap.complete_before(ahead_ms bigint DEFAULT 0) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH clock AS (
        SELECT received_ms + ahead_ms AS at_ms, settle_ms, give_up_ms FROM auditap.completeness_clock
    ),
    bounds AS (
        SELECT b.at_ms FROM clock CROSS JOIN LATERAL auditap.watermark_bounds(clock.at_ms, clock.give_up_ms) AS b
        UNION ALL
        SELECT oldest_ms FROM auditap.late_arrivals WHERE held_until_ms > auditap.hold_clock_ms() + ahead_ms
        UNION ALL
        SELECT at_ms - settle_ms FROM clock
    )
    SELECT CASE
        WHEN EXISTS (SELECT FROM auditap.tap_epochs AS e WHERE NOT e.surplus AND NOT e.retired) THEN greatest(min(at_ms), 0)
    END
    FROM bounds
$$;

DROP FUNCTION auditap.note_time(bigint, text[], bigint[]);

-- As before, with two differences. The log's time goes back only by more than the margin of hold_back; the watermark then stays where it is
-- put for its hold, because clients have read a later one. And where the ingestor's clock (clock_ms; NULL: an older ingestor) and the
-- database's are apart, nothing is noted: the ingestor is about to wait until they agree, and the one that is wrong may be the database's.
CREATE FUNCTION auditap.note_time(
    latest_ms bigint, by_collectors text[] DEFAULT '{}', at_times bigint[] DEFAULT '{}', clock_ms bigint DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    now_ms CONSTANT bigint := auditap.now_ms();
    receipt_ms CONSTANT bigint := least(latest_ms, now_ms);
    has_gone_back boolean;
BEGIN
    IF abs(clock_ms - now_ms) > 300000 THEN
        RETURN;
    END IF;
    INSERT INTO auditap.collectors AS c (id, received_ms, noted_ms)
    SELECT given.id, max(least(given.at_ms, now_ms)), max(greatest(clock.received_ms, receipt_ms))
    FROM unnest(by_collectors[1:1000], at_times[1:1000]) AS given (id, at_ms)
    CROSS JOIN auditap.completeness_clock AS clock
    WHERE given.id ~ '^[0-9a-f]{32}$' AND given.at_ms > 0 AND (
        EXISTS (SELECT FROM auditap.collectors AS known WHERE known.id = given.id)
        OR (SELECT count(*) FROM auditap.collectors) <= 9000
    )
    GROUP BY given.id
    ORDER BY given.id
    ON CONFLICT (id) DO UPDATE SET received_ms = excluded.received_ms, noted_ms = greatest(c.noted_ms, excluded.noted_ms)
    WHERE c.received_ms < excluded.received_ms;
    UPDATE auditap.completeness_clock AS clock SET received_ms = receipt_ms WHERE clock.received_ms < receipt_ms;
    UPDATE auditap.completeness_clock AS clock SET received_ms = now_ms WHERE clock.received_ms > now_ms + clock.settle_ms / 2
    RETURNING true INTO has_gone_back;
    IF has_gone_back THEN
        INSERT INTO auditap.late_arrivals (held_until_ms, oldest_ms)
        SELECT now_ms + clock.hold_ms, auditap.complete_before()
        FROM auditap.completeness_clock AS clock
        WHERE auditap.complete_before() IS NOT NULL;
    END IF;
END
$$;

REVOKE ALL ON FUNCTION auditap.note_time(bigint, text[], bigint[], bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auditap.note_time(bigint, text[], bigint[], bigint) TO auditap_writer;
