-- As before, but the log's own time is never beyond the database's. Where both were ahead, as on a host of its own, and the clock is
-- right again, it goes back: otherwise every lease would be over, and the watermark in the future, for as long as the jump was.
CREATE OR REPLACE FUNCTION auditap.note_time(latest_ms bigint, by_collectors text[] DEFAULT '{}', at_times bigint[] DEFAULT '{}') RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    now_ms CONSTANT bigint := auditap.now_ms();
    receipt_ms CONSTANT bigint := least(latest_ms, now_ms);
BEGIN
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
    UPDATE auditap.completeness_clock AS clock
    SET received_ms = least(greatest(clock.received_ms, receipt_ms), now_ms)
    WHERE clock.received_ms <> least(greatest(clock.received_ms, receipt_ms), now_ms);
END
$$;
