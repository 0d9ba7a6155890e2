-- The API token with this hash, unless it was revoked.
SELECT id, name, email, accounts, permissions, expires_at, requests_per_s
FROM auditap.api_tokens
WHERE token_sha256 = $1 AND revoked_at IS NULL
