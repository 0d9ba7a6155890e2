-- Ids of the accounts' records ($1 NULL: every account) whose actor's e-mail address the enrichment backfill found, in
-- order. Records whose account was backfilled as well are read by scan_backfilled_accounts.sql. Slots (constant text
-- only): order, candidate, conditions, join_backfilled_record.
SELECT e.id
FROM (
    SELECT found.*
    FROM auditap.audit_enrichments AS found
    WHERE {candidate} AND found.id >= $2 AND found.id < $3
    OFFSET 0
) AS e
{join_backfilled_record}
WHERE r.actor_email IS NULL AND ($1::text[] IS NULL OR r.account_id = ANY($1::text[]))
{conditions}
ORDER BY e.id {order}
LIMIT $4::bigint
