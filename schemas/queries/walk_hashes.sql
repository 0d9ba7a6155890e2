-- What accounts and values are in the indexes that hash them together.
SELECT hashtextextended(account.id, hashtextextended(asked.value, 0)) AS hash
FROM unnest($1::text[]) AS account (id), unnest($2::text[]) AS asked (value)
