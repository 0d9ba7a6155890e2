-- Waiting records are read when they are due, and less and less often: a pass of the backfill costs what is due, not what waits. The writer
-- claims and postpones notes through functions; it may change and delete none.
ALTER TABLE auditap.partial_records
    ADD COLUMN due_at timestamptz NOT NULL DEFAULT now(),
    -- How long the note waits if the next step leaves its record partial.
    ADD COLUMN wait interval NOT NULL DEFAULT '5 seconds';
CREATE INDEX partial_records_due ON auditap.partial_records (due_at, id);

-- Locks notes that are due until the transaction ends, and returns their ids. Notes that another transaction has locked are passed over.
CREATE FUNCTION auditap.claim_partial(rows_max integer) RETURNS SETOF uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT p.id FROM auditap.partial_records AS p
    WHERE p.due_at <= now()
    ORDER BY p.due_at, p.id
    LIMIT least(greatest(coalesce(rows_max, 0), 0), 10000)
    FOR UPDATE SKIP LOCKED;
END
$$;

-- Lets notes that are due wait: 5 s, then twice as long each time, and 5 minutes at most.
CREATE FUNCTION auditap.postpone_partial(ids uuid[]) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE auditap.partial_records AS p
    SET due_at = now() + p.wait, wait = least(p.wait * 2, interval '5 minutes')
    FROM unnest(ids) AS given (id)
    WHERE p.id = given.id AND p.due_at <= now()
$$;

REVOKE ALL ON auditap.partial_records FROM auditap_writer;
GRANT INSERT (id) ON auditap.partial_records TO auditap_writer;
REVOKE ALL ON FUNCTION auditap.claim_partial(integer), auditap.postpone_partial(uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auditap.claim_partial(integer), auditap.postpone_partial(uuid[]) TO auditap_writer;
