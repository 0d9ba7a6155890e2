-- The hash of each pair of account and value, as the combined indexes store it.
SELECT hashtextextended(account.id, hashtextextended(wanted.value, 0)) AS hash
FROM unnest($1::text[]) AS account (id), unnest($2::text[]) AS wanted (value)
