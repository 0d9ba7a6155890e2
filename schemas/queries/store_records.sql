-- Insert the staged rows into the log, except those whose id is there already. Without the order by id, sessions with
-- overlapping batches would deadlock. Slot (constant text only): columns.
INSERT INTO auditap.audit_records ({columns})
SELECT {columns}
FROM staging
ORDER BY id
ON CONFLICT DO NOTHING
