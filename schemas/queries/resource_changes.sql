-- Ids of the newest actions that changed a resource, for each of the resources in $1 to $5 (account, product, type, id, and the
-- id below which to look), within the id range from $6 to $7. At most $8 records of a resource are examined, views and failed
-- actions included; columns: place (from 1), ids (newest first), examined, oldest (the last id that was examined), and whether the
-- enrichment backfill found any of the accounts in the range.
SELECT
    wanted.place, found.ids, found.examined, found.oldest,
    EXISTS (
        SELECT FROM auditap.audit_enrichments AS e
        WHERE e.account_id = ANY($1::text[]) AND e.id >= $6 AND e.id < $7
    ) AS backfilled
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::uuid[])
    WITH ORDINALITY AS wanted (account_id, product, type, id, before, place)
CROSS JOIN LATERAL (
    SELECT
        count(*) AS examined,
        array_agg(r.id ORDER BY r.id DESC) FILTER (WHERE r.matches) AS ids,
        (array_agg(r.id ORDER BY r.id))[1] AS oldest
    FROM (
        SELECT
            stored.id,
            stored.account_id = wanted.account_id
                AND stored.resource_id = wanted.id
                AND stored.resource_product IS NOT DISTINCT FROM wanted.product
                AND stored.resource_type IS NOT DISTINCT FROM wanted.type
                AND stored.action_result = 'success'
                AND stored.action_type <> 'view' AS matches
        FROM auditap.audit_records AS stored
        WHERE
            hashtextextended(stored.account_id, hashtextextended(stored.resource_id, 0))
                = hashtextextended(wanted.account_id, hashtextextended(wanted.id, 0))
            AND stored.id >= $6 AND stored.id < $7 AND stored.id < wanted.before
        ORDER BY stored.id DESC
        LIMIT $8::bigint
    ) AS r
) AS found
