-- Insert what the enrichment backfill found, and delete the notes $8 of records that are no longer partial. An enrichment that
-- is there already stays as it is.
WITH forgotten AS (
    DELETE FROM auditap.partial_records WHERE id = ANY($8::uuid[])
)
INSERT INTO auditap.audit_enrichments (id, account_id, account_name, zone_name, actor_email, actor_token_name, state)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[]) AS found
ORDER BY 1
ON CONFLICT DO NOTHING
