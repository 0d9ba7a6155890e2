-- What was decided about dead letters, and the role that decides.

ALTER TABLE auditap.dead_letters
    -- What people call a letter by.
    ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY,
    ADD COLUMN retries integer NOT NULL DEFAULT 0,
    ADD COLUMN retried_at timestamptz,
    -- It became a record after all, or its record was there.
    ADD COLUMN stored_at timestamptz,
    ADD COLUMN discarded_at timestamptz,
    ADD COLUMN discarded_by text,
    ADD COLUMN state text NOT NULL GENERATED ALWAYS AS (
        CASE WHEN discarded_at IS NOT NULL THEN 'discarded' WHEN stored_at IS NOT NULL THEN 'stored' ELSE 'open' END
    ) STORED;
CREATE UNIQUE INDEX dead_letters_number ON auditap.dead_letters (number);
CREATE INDEX dead_letters_open ON auditap.dead_letters (number) WHERE state = 'open';

DO $$
BEGIN
    CREATE ROLE auditap_operator NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END
$$;

-- The operator stores as the writer does, reads dead letters, and notes what became of them. It deletes nothing, and what
-- was buried stays as it was.
GRANT auditap_writer TO auditap_operator;
GRANT USAGE ON SCHEMA auditap TO auditap_operator;
GRANT SELECT ON auditap.dead_letters TO auditap_operator;
GRANT UPDATE (reason, path, retries, retried_at, stored_at, discarded_at, discarded_by)
    ON auditap.dead_letters TO auditap_operator;
