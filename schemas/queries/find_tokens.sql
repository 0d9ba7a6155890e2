-- The API tokens with these hashes, unless they were revoked.
SELECT wanted.sha256, t.id, t.name, t.email, t.accounts, t.permissions, t.expires_at, t.requests_per_s
FROM unnest($1::bytea[]) AS wanted (sha256)
CROSS JOIN LATERAL auditap.find_token(wanted.sha256) AS t
