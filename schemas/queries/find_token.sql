-- The API token with this hash, unless it was revoked.
SELECT id, name, email, accounts, permissions, expires_at, requests_per_s
FROM auditap.find_token($1)
