-- The digests of the records that have these ids; the range lets the planner pass over other days.
SELECT id, event_digest
FROM auditap.audit_records
WHERE id = ANY($1::uuid[]) AND id >= $2::uuid AND id <= $3::uuid
