-- The condition that a filter of dead letters sets; $1 to $7 are the filter, and NULL does not restrict.
($1::bigint[] IS NULL OR number = ANY ($1))
AND ($2::text[] IS NULL OR reason = ANY ($2))
AND ($3::uuid[] IS NULL OR event_id = ANY ($3))
AND ($4::timestamptz IS NULL OR dead_lettered_at >= $4)
AND ($5::timestamptz IS NULL OR dead_lettered_at < $5)
AND ($6::text IS NULL OR state = $6)
AND ($7::bigint IS NULL OR number <= $7)
