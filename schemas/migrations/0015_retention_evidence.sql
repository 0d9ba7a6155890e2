-- Retention goes by more than this database's clock: it sees what was received, counts what it would drop, and drops only the partition
-- that it names, if that ended before both the time that the caller planned with and the retention by this clock.

DROP FUNCTION auditap.drop_expired_partition(integer, integer), auditap.prune_beside_log(integer, integer);

-- What retention decides by: the time here; the newest receipt (of a report, or of the newest record; NULL where there is none), which is
-- never later than the clock of the database or ingestor that stored it; how long records are kept; and whether the caller is on this host, whose
-- clock is then the same one.
CREATE FUNCTION auditap.retention_evidence(keep_days integer)
RETURNS TABLE (database_ms bigint, received_ms bigint, kept_days integer, same_host boolean)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    partition_name text;
    newest uuid;
BEGIN
    -- One partition at a time, because a statement over all of them would lock them all.
    FOR partition_name IN
        SELECT p.child FROM auditap.partitions() AS p WHERE p.parent = 'audit_records' ORDER BY p.from_ms DESC
    LOOP
        EXECUTE format('SELECT id FROM auditap.%I ORDER BY id DESC LIMIT 1', partition_name) INTO newest;
        EXIT WHEN newest IS NOT NULL;
    END LOOP;
    RETURN QUERY SELECT
        auditap.now_ms(),
        greatest(nullif(clock.received_ms, 0), ('x' || left(replace(newest::text, '-', ''), 12))::bit(48)::bigint),
        greatest(keep_days, shape.retention_days),
        inet_server_addr() IS NULL OR inet_server_addr() = inet_client_addr()
    FROM auditap.completeness_clock AS clock, auditap.log_shape AS shape;
END
$$;

-- How many rows a partition holds; 0 where there is none of that name.
CREATE FUNCTION auditap.count_partition(partition_name text) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    counted bigint := 0;
BEGIN
    IF EXISTS (SELECT FROM auditap.partitions() AS p WHERE p.child = partition_name) THEN
        EXECUTE format('SELECT count(*) FROM auditap.%I', partition_name) INTO counted;
    END IF;
    RETURN counted;
END
$$;

-- Drops a partition that ended before before_ms and before the retention; returns whether it was there to be dropped. It gives up
-- (lock_not_available) rather than wait longer than lock_wait_ms for each of two locks, because whoever asks for the table meanwhile
-- waits behind it.
CREATE FUNCTION auditap.drop_partition(partition_name text, before_ms bigint, keep_days integer, lock_wait_ms integer)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM auditap.partitions() AS p
        WHERE p.child = partition_name AND p.to_ms <= least(before_ms, auditap.kept_since_ms(keep_days))
    ) THEN
        RETURN false;
    END IF;
    PERFORM set_config('lock_timeout', least(greatest(lock_wait_ms, 1), 5000)::text, true);
    EXECUTE format('DROP TABLE auditap.%I', partition_name);
    RETURN true;
EXCEPTION WHEN undefined_table THEN
    -- Another pass has dropped it while this one waited for the lock.
    RETURN false;
END
$$;

-- As before, but nothing that is later than before_ms.
CREATE FUNCTION auditap.prune_beside_log(before_ms bigint, keep_days integer, rows_max integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    since_ms CONSTANT bigint := greatest(least(before_ms, auditap.kept_since_ms(keep_days)), 0);
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

REVOKE ALL ON FUNCTION auditap.retention_evidence(integer), auditap.count_partition(text),
    auditap.drop_partition(text, bigint, integer, integer), auditap.prune_beside_log(bigint, integer, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auditap.retention_evidence(integer), auditap.count_partition(text),
    auditap.drop_partition(text, bigint, integer, integer), auditap.prune_beside_log(bigint, integer, integer)
TO auditap_maintainer;
