-- Store what the enrichment backfill found, and delete the notes $8 of records that are no longer partial. An enrichment that
-- is there already stays as it is.
SELECT auditap.store_enrichments($1, $2, $3, $4, $5, $6, $7, $8)
