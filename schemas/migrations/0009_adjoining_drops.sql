-- What is dropped over several heartbeats is one gap: ranges of one cause that adjoin are kept as one.
CREATE OR REPLACE FUNCTION auditap.note_drops(
    for_tap text, for_epoch bigint, firsts bigint[], lasts bigint[], causes text[], froms bigint[], tos bigint[]
) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known int8multirange;
    told record;
    fresh int8range;
    beside auditap.tap_drops;
    merged auditap.tap_drops;
BEGIN
    SELECT dropped INTO known FROM auditap.tap_epochs WHERE tap_id = for_tap AND epoch = for_epoch FOR UPDATE;
    FOR told IN
        SELECT * FROM unnest(firsts, lasts, causes, froms, tos) AS d (first, last, cause, from_ms, to_ms)
    LOOP
        FOR fresh IN
            SELECT unnest(int8multirange(int8range(told.first, told.last, '[]')) - known)
        LOOP
            merged := ROW(for_tap, for_epoch, lower(fresh), upper(fresh) - 1, told.cause, told.from_ms, told.to_ms);
            -- The neighbours, by the order of the key: ranges do not overlap.
            FOR beside IN
                (SELECT * FROM auditap.tap_drops AS d
                 WHERE d.tap_id = for_tap AND d.epoch = for_epoch AND d.first < lower(fresh)
                 ORDER BY d.first DESC LIMIT 1)
                UNION ALL
                SELECT * FROM auditap.tap_drops AS d
                WHERE d.tap_id = for_tap AND d.epoch = for_epoch AND d.first = upper(fresh)
            LOOP
                CONTINUE WHEN beside.cause <> told.cause OR beside.first < merged.first AND beside.last + 1 <> merged.first;
                DELETE FROM auditap.tap_drops AS d
                WHERE d.tap_id = for_tap AND d.epoch = for_epoch AND d.first = beside.first;
                merged.first := least(merged.first, beside.first);
                merged.last := greatest(merged.last, beside.last);
                merged.from_ms := least(merged.from_ms, beside.from_ms);
                merged.to_ms := greatest(merged.to_ms, beside.to_ms);
            END LOOP;
            INSERT INTO auditap.tap_drops
            VALUES (for_tap, for_epoch, merged.first, merged.last, merged.cause, merged.from_ms, merged.to_ms);
        END LOOP;
        known := known + int8multirange(int8range(told.first, told.last, '[]'));
    END LOOP;
    UPDATE auditap.tap_epochs SET dropped = known
    WHERE tap_id = for_tap AND epoch = for_epoch AND NOT dropped @> known;
END
$$;
