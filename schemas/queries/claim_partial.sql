-- Lock at most $1 notes of partial records that are due, until the transaction ends. Notes that another transaction has locked
-- are skipped, so that several ingestors share the work.
SELECT id FROM auditap.claim_partial($1) AS due (id) ORDER BY id
