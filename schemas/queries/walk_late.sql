-- Whether enrichment found any of the accounts $1, or any of the e-mail addresses $4, for records of a window. Either may
-- be NULL.
SELECT
    EXISTS (
        SELECT FROM auditap.audit_enrichments AS e
        WHERE e.account_id = ANY($1::text[]) AND e.id >= $2 AND e.id < $3
    ) AS late_accounts,
    EXISTS (
        SELECT FROM auditap.audit_enrichments AS e
        WHERE e.actor_email = ANY($4::text[]) AND e.id >= $2 AND e.id < $3
    ) AS late_emails
