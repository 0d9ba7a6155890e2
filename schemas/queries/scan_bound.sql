-- For each account with rows in the range: the first id in scan order, and the id after which $4 rows have been read
-- (NULL: it has no more than $4). Slots (constant text only): scope, table, order.
SELECT nearest.id AS first_id, bound.id AS bound_id
FROM {scope}
CROSS JOIN LATERAL (
    SELECT one.id
    FROM {table} AS one
    WHERE one.account_id = scope.account_id AND one.id >= $2 AND one.id < $3
    ORDER BY one.id {order}
    LIMIT 1
) AS nearest
LEFT JOIN LATERAL (
    SELECT one.id
    FROM {table} AS one
    WHERE one.account_id = scope.account_id AND one.id >= $2 AND one.id < $3
    ORDER BY one.id {order}
    OFFSET $4::bigint
    LIMIT 1
) AS bound ON true
