-- Whether the enrichment backfill found any of the accounts $1, or any of the e-mail addresses $4, for records in the id
-- range. Either may be NULL.
SELECT
    EXISTS (
        SELECT FROM auditap.audit_enrichments AS e
        WHERE e.account_id = ANY($1::text[]) AND e.id >= $2 AND e.id < $3
    ) AS backfilled_accounts,
    EXISTS (
        SELECT FROM auditap.audit_enrichments AS e
        WHERE e.actor_email = ANY($4::text[]) AND e.id >= $2 AND e.id < $3
    ) AS backfilled_emails
