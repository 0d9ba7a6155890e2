-- What a walk has to know before it begins: whether enrichment found any of the accounts $1, or any of the e-mail
-- addresses $4 (either may be NULL), for records of the range; and what accounts and values $5 are in an index.
SELECT
    EXISTS (
        SELECT FROM auditap.audit_enrichments AS e
        WHERE e.account_id = ANY($1::text[]) AND e.id >= $2 AND e.id < $3
    ) AS late_accounts,
    EXISTS (
        SELECT FROM auditap.audit_enrichments AS e
        WHERE e.actor_email = ANY($4::text[]) AND e.id >= $2 AND e.id < $3
    ) AS late_emails,
    ARRAY(
        SELECT hashtextextended(account.id, hashtextextended(asked.value, 0))
        FROM unnest($1::text[]) AS account (id), unnest($5::text[]) AS asked (value)
    ) AS hashes
