-- A log that is made again under its name is another log. What is kept by a position in a log goes by more than the log's name.

-- Dead letters: by the position and the event's digest. The same log read again adds none; another log of the name adds its own.
ALTER TABLE auditap.dead_letters DROP CONSTRAINT dead_letters_pkey;
ALTER TABLE auditap.dead_letters ADD CONSTRAINT dead_letters_pkey PRIMARY KEY USING INDEX dead_letters_number;
CREATE UNIQUE INDEX dead_letters_position
    ON auditap.dead_letters (source_log, source_partition, source_offset, sha256(event));

-- Lost offsets: by the log's id too, empty where it has none or an older release noted them. These rows keep it: a range of whichever
-- log there was must not hide one of another.
ALTER TABLE auditap.lost_offsets ADD COLUMN log_id text NOT NULL DEFAULT '';
ALTER TABLE auditap.lost_offsets DROP CONSTRAINT lost_offsets_pkey, ADD PRIMARY KEY (log, partition, log_id, first);

DROP FUNCTION auditap.note_lost_offsets(text, integer, bigint, bigint, bigint, bigint);
-- As before, for each log of a name by itself. Ingestors of older releases give no id.
CREATE FUNCTION auditap.note_lost_offsets(
    in_log text, in_partition integer, first_lost bigint, last_lost bigint, before_ms bigint, after_ms bigint,
    in_log_id text DEFAULT ''
) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO auditap.lost_offsets AS l (log, partition, log_id, first, last, from_ms, to_ms)
    SELECT in_log, in_partition, coalesce(in_log_id, ''), first_lost, last_lost, before_ms, least(after_ms, auditap.now_ms())
    WHERE first_lost <= last_lost
    ON CONFLICT (log, partition, log_id, first) DO UPDATE SET
        last = greatest(l.last, excluded.last), to_ms = greatest(l.to_ms, excluded.to_ms)
    WHERE l.last < excluded.last
$$;
REVOKE ALL ON FUNCTION auditap.note_lost_offsets(text, integer, bigint, bigint, bigint, bigint, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auditap.note_lost_offsets(text, integer, bigint, bigint, bigint, bigint, text) TO auditap_writer;

-- Alerting's positions: by the log's id too, empty where it has none. Those of older releases have none: alerting gives them to the first
-- topic that it reads.
ALTER TABLE auditap.alert_positions ADD COLUMN log_id text NOT NULL DEFAULT '';
ALTER TABLE auditap.alert_positions
    DROP CONSTRAINT alert_positions_pkey, ADD PRIMARY KEY (consumer_group, log, partition, log_id);
