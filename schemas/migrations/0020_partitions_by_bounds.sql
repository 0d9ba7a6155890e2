-- What is a partition shows in the catalogue of partitions and not in a table's name: an administrator may have renamed one, detached it, or
-- moved it to another schema.

-- As before, but a table that has a partition's name and is none does not count for one. The next free name is taken then.
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
    usual text;
    child text;
    attempts integer;
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
            usual := parent || to_char(starts_at, suffix);
            -- By its name first: where there are thousands of partitions, their bounds are looked at only if it is missing.
            CONTINUE WHEN EXISTS (
                SELECT FROM pg_inherits AS i
                WHERE i.inhrelid = to_regclass('auditap.' || usual) AND i.inhparent = to_regclass('auditap.' || parent)
            ) OR EXISTS (
                SELECT FROM pg_inherits AS i
                JOIN pg_class AS c ON c.oid = i.inhrelid
                WHERE i.inhparent = to_regclass('auditap.' || parent) AND pg_get_expr(c.relpartbound, c.oid) = format(
                    'FOR VALUES FROM (%L) TO (%L)', auditap.first_id_at(start_ms), auditap.first_id_at(end_ms)
                )
            );
            child := usual;
            attempts := 1;
            WHILE to_regclass('auditap.' || child) IS NOT NULL LOOP
                attempts := attempts + 1;
                child := usual || '_' || attempts;
            END LOOP;
            EXECUTE format('CREATE TABLE auditap.%I (LIKE auditap.%I INCLUDING ALL)', child, parent);
            EXECUTE format(
                'ALTER TABLE auditap.%I ATTACH PARTITION auditap.%I FOR VALUES FROM (%L) TO (%L)',
                parent, child, auditap.first_id_at(start_ms), auditap.first_id_at(end_ms)
            );
            made := made + 1;
        END LOOP;
        starts_at := starts_at + step;
    END LOOP;
    RETURN made;
END
$$;

-- As before, but only tables of this schema: one that an administrator has moved elsewhere is left to them, as one that is detached. No
-- backslash, which standard_conforming_strings would read in another way.
CREATE OR REPLACE FUNCTION auditap.partitions()
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
    JOIN pg_class AS c ON c.oid = i.inhrelid AND c.relispartition AND c.relnamespace = p.relnamespace
    CROSS JOIN LATERAL regexp_match(
        pg_get_expr(c.relpartbound, c.oid), 'FROM [(]''([0-9a-f-]{36})''[)] TO [(]''([0-9a-f-]{36})''[)]'
    ) AS bounds
    WHERE i.inhparent IN ('auditap.audit_records'::regclass, 'auditap.audit_enrichments'::regclass)
        AND c.relkind = 'r' AND bounds IS NOT NULL
    ORDER BY 4, 1 DESC
$$;
