-- The API token with this hash, unless it was revoked.
SELECT id, accounts, permissions, expires_at
FROM auditap.api_tokens
WHERE token_sha256 = $1 AND revoked_at IS NULL
