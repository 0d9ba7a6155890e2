-- Ids of the accounts' records ($1 NULL: of any) whose actor's e-mail address was found out later, in order. Those
-- whose account was found later too stand in walk_late_accounts.sql. Slots (constant text only): order, candidate,
-- conditions.
SELECT e.id
FROM (
    SELECT found.*
    FROM auditap.audit_enrichments AS found
    WHERE {candidate} AND found.id >= $2 AND found.id < $3
    OFFSET 0
) AS e
CROSS JOIN LATERAL (
    SELECT stored.*
    FROM auditap.audit_records AS stored
    WHERE stored.id = e.id AND stored.id >= $2 AND stored.id < $3
    OFFSET 0
) AS r
WHERE r.actor_email IS NULL AND ($1::text[] IS NULL OR r.account_id = ANY($1::text[]))
{conditions}
ORDER BY e.id {order}
LIMIT $4::bigint
