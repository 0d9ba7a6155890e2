-- Take notes of partial records after a given id for the length of a transaction; those that another one has taken are
-- passed over, so that several ingestors share the work.
SELECT id
FROM auditap.partial_records
WHERE id > $1::uuid
ORDER BY id
LIMIT $2
FOR UPDATE SKIP LOCKED
