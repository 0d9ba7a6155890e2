-- As resource_changes.sql, of records whose account the enrichment backfill found, which the index on resources lacks. The
-- newest $8 records of each account are examined, whatever their resource; columns: account_id, examined, oldest, and of the
-- records that match place and id, or NULL in one row.
WITH examined AS MATERIALIZED (
    SELECT scope.account_id, e.id
    FROM (SELECT DISTINCT account_id FROM unnest($1::text[]) AS asked (account_id)) AS scope
    CROSS JOIN LATERAL (
        SELECT found.id
        FROM auditap.audit_enrichments AS found
        WHERE found.account_id = scope.account_id AND found.id >= $6 AND found.id < $7
        ORDER BY found.id DESC
        LIMIT $8::bigint
    ) AS e
),
matching AS (
    SELECT wanted.place, wanted.account_id, r.id
    FROM examined AS e
    CROSS JOIN LATERAL (
        SELECT stored.*
        FROM auditap.audit_records AS stored
        WHERE stored.id = e.id AND stored.id >= $6 AND stored.id < $7
        OFFSET 0
    ) AS r
    JOIN unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::uuid[])
        WITH ORDINALITY AS wanted (account_id, product, type, id, before, place)
        ON wanted.account_id = e.account_id AND wanted.id = r.resource_id
    WHERE
        r.account_id IS NULL
        AND r.id < wanted.before
        AND r.resource_product IS NOT DISTINCT FROM wanted.product
        AND r.resource_type IS NOT DISTINCT FROM wanted.type
        AND r.action_result = 'success'
        AND r.action_type <> 'view'
)
SELECT counted.account_id, counted.examined, counted.oldest, matching.place, matching.id
FROM (
    SELECT account_id, count(*) AS examined, (array_agg(id ORDER BY id))[1] AS oldest
    FROM examined
    GROUP BY account_id
) AS counted
LEFT JOIN matching ON matching.account_id = counted.account_id
ORDER BY matching.id DESC
