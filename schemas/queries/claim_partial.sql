-- Lock the notes of partial records above the id $1, at most $2, until the transaction ends. Notes that another transaction
-- has locked are skipped, so that several ingestors share the work.
SELECT id
FROM auditap.partial_records
WHERE id > $1::uuid
ORDER BY id
LIMIT $2
FOR UPDATE SKIP LOCKED
