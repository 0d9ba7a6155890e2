-- Partitions by hour, day or month; how long the log is kept; and the one role that may drop what is older.

-- What `auditap migrate` decided, one row. The interval stays as it is once there are partitions.
CREATE TABLE auditap.log_shape (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    partition_interval text NOT NULL DEFAULT 'day' CHECK (partition_interval IN ('hour', 'day', 'month')),
    retention_days integer NOT NULL DEFAULT 30 CHECK (retention_days > 0)
);
INSERT INTO auditap.log_shape DEFAULT VALUES;

-- Makes the partitions (UTC) of records and enrichments between two times, both included; returns how many were made.
-- Built beside the table and attached, which blocks no writer. The bound on the time keeps a role that may only insert
-- from filling the catalogue.
CREATE OR REPLACE FUNCTION auditap.ensure_partitions(from_ms bigint, to_ms bigint) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
DECLARE
    day_ms CONSTANT bigint := 86400000;
    now_ms CONSTANT bigint := (extract(epoch FROM clock_timestamp()) * 1000)::bigint;
    shape auditap.log_shape;
    suffix text;
    step interval;
    starts_at timestamp;
    start_ms bigint;
    end_ms bigint;
    made integer := 0;
    parent text;
    child text;
BEGIN
    SELECT * INTO STRICT shape FROM auditap.log_shape;
    IF from_ms < 0 OR from_ms < now_ms - greatest(3660, shape.retention_days + 60) * day_ms
        OR to_ms > now_ms + 366 * day_ms
    THEN
        RAISE EXCEPTION 'partitions can be made for what is kept, from 3660 days ago to 366 days ahead'
            USING ERRCODE = '22003';
    END IF;
    suffix := CASE shape.partition_interval
        WHEN 'hour' THEN '"_"YYYYMMDDHH24' WHEN 'day' THEN '"_"YYYYMMDD' ELSE '"_"YYYYMM'
    END;
    step := ('1 ' || shape.partition_interval)::interval;
    starts_at := date_trunc(shape.partition_interval, to_timestamp(from_ms / 1000) AT TIME ZONE 'UTC');
    PERFORM pg_advisory_xact_lock(hashtext('auditap.ensure_partitions'));
    LOOP
        start_ms := (extract(epoch FROM starts_at) * 1000)::bigint;
        end_ms := (extract(epoch FROM starts_at + step) * 1000)::bigint;
        EXIT WHEN start_ms > to_ms;
        FOREACH parent IN ARRAY ARRAY['audit_records', 'audit_enrichments'] LOOP
            child := parent || to_char(starts_at, suffix);
            IF to_regclass('auditap.' || child) IS NULL THEN
                EXECUTE format('CREATE TABLE auditap.%I (LIKE auditap.%I INCLUDING ALL)', child, parent);
                EXECUTE format(
                    'ALTER TABLE auditap.%I ATTACH PARTITION auditap.%I FOR VALUES FROM (%L) TO (%L)',
                    parent, child, auditap.first_id_at(start_ms), auditap.first_id_at(end_ms)
                );
                made := made + 1;
            END IF;
        END LOOP;
        starts_at := starts_at + step;
    END LOOP;
    RETURN made;
END
$$;

-- The partitions there are, oldest first, with the times that bound them (the end excluded). Rows are an estimate, -1
-- where nothing has counted them yet.
CREATE FUNCTION auditap.partitions()
RETURNS TABLE (parent text, child text, from_ms bigint, to_ms bigint, rows_estimated bigint, size_bytes bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT
        p.relname::text,
        c.relname::text,
        ('x' || left(replace(bounds[1], '-', ''), 12))::bit(48)::bigint,
        ('x' || left(replace(bounds[2], '-', ''), 12))::bit(48)::bigint,
        c.reltuples::bigint,
        pg_total_relation_size(c.oid)
    FROM pg_inherits AS i
    JOIN pg_class AS p ON p.oid = i.inhparent
    JOIN pg_class AS c ON c.oid = i.inhrelid AND c.relispartition
    CROSS JOIN LATERAL regexp_match(
        pg_get_expr(c.relpartbound, c.oid), 'FROM \(''([0-9a-f-]{36})''\) TO \(''([0-9a-f-]{36})''\)'
    ) AS bounds
    WHERE i.inhparent IN ('auditap.audit_records'::regclass, 'auditap.audit_enrichments'::regclass)
        AND c.relkind = 'r'
    ORDER BY 4, 1 DESC
$$;

-- Before which time nothing is kept: what `auditap migrate` recorded, or longer if the caller says so, never shorter.
CREATE FUNCTION auditap.kept_since_ms(keep_days integer) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint - greatest(keep_days, retention_days) * 86400000::bigint
    FROM auditap.log_shape
$$;

-- Drops the oldest partition that holds nothing to be kept and returns its name, NULL where there is none. Records go
-- before their enrichments. It gives up (lock_not_available) rather than wait longer than lock_wait_ms for each of two
-- locks, because whoever asks for the table meanwhile waits behind it.
CREATE FUNCTION auditap.drop_expired_partition(keep_days integer, lock_wait_ms integer) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    expired text;
BEGIN
    SELECT p.child INTO expired
    FROM auditap.partitions() AS p
    WHERE p.to_ms <= auditap.kept_since_ms(keep_days)
    ORDER BY p.to_ms, p.parent DESC
    LIMIT 1;
    IF expired IS NOT NULL THEN
        PERFORM set_config('lock_timeout', least(greatest(lock_wait_ms, 1), 5000)::text, true);
        EXECUTE format('DROP TABLE IF EXISTS auditap.%I', expired);
    END IF;
    RETURN expired;
END
$$;

-- Takes away at most rows_max rows of each table beside the log that speak of what is not kept any more; returns how many
-- were taken. Rows that somebody works on are left for the next time.
CREATE FUNCTION auditap.prune_beside_log(keep_days integer, rows_max integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    since_ms CONSTANT bigint := auditap.kept_since_ms(keep_days);
    taken bigint;
    total bigint := 0;
BEGIN
    DELETE FROM auditap.partial_records WHERE id IN (
        SELECT id FROM auditap.partial_records WHERE id < auditap.first_id_at(since_ms)
        ORDER BY id LIMIT rows_max FOR UPDATE SKIP LOCKED
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
CREATE INDEX IF NOT EXISTS dead_letters_buried ON auditap.dead_letters (buried_at);

DO $$
BEGIN
    CREATE ROLE auditap_maintainer NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END
$$;

REVOKE ALL ON FUNCTION auditap.partitions(), auditap.kept_since_ms(integer),
    auditap.drop_expired_partition(integer, integer), auditap.prune_beside_log(integer, integer) FROM PUBLIC;
GRANT USAGE ON SCHEMA auditap TO auditap_maintainer;
GRANT EXECUTE ON FUNCTION auditap.partitions(), auditap.kept_since_ms(integer),
    auditap.drop_expired_partition(integer, integer), auditap.prune_beside_log(integer, integer) TO auditap_maintainer;
GRANT SELECT ON auditap.log_shape TO auditap_writer, auditap_reader, auditap_maintainer;
