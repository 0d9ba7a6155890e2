"""Tokens of the log API. Only their SHA-256 is stored."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from auditap.database.connection import Connection

TOKEN_PREFIX = "atp_"  # noqa: S105


async def create_token(
    connection: Connection,
    name: str,
    accounts: Sequence[str] | None,
    permissions: Sequence[str],
    expires_at: datetime,
    *,
    email: str | None = None,
    requests_per_s: float | None = None,
) -> tuple[UUID, str]:
    """Create a token of the log API. Return its id and the token, which is stored hashed and cannot be shown again.

    `accounts` None: every account. `email`: of the user it belongs to. `requests_per_s` None: `api.requests_per_s`.
    """
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    token_id: UUID = await connection.fetchval(
        "INSERT INTO auditap.api_tokens"
        " (token_sha256, name, accounts, permissions, expires_at, email, requests_per_s)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id",
        hashlib.sha256(token.encode()).digest(),
        name,
        None if accounts is None else list(accounts),
        list(permissions),
        expires_at,
        email,
        requests_per_s,
    )
    return token_id, token


async def token_works(connection: Connection, token: str, permissions: Sequence[str], days: int) -> bool:
    """Return whether a token exists, is not revoked, has all of `permissions`, and is valid for `days` more days."""
    return bool(
        await connection.fetchval(
            "SELECT true FROM auditap.api_tokens WHERE token_sha256 = $1 AND revoked_at IS NULL"
            " AND permissions @> $2::text[] AND expires_at > now() + make_interval(days => $3)",
            hashlib.sha256(token.encode()).digest(),
            list(permissions),
            days,
        )
    )


async def list_tokens(connection: Connection) -> Sequence[Mapping[str, Any]]:
    """Return all tokens, newest first, without their text: id, name, email, accounts, permissions, requests_per_s,
    created_at, expires_at, revoked_at.
    """
    rows = await connection.fetch(
        "SELECT id, name, email, accounts, permissions, requests_per_s, created_at, expires_at, revoked_at"
        " FROM auditap.api_tokens ORDER BY created_at DESC"
    )
    return [dict(row) for row in rows]


async def revoke_token(connection: Connection, token_id: UUID) -> bool:
    """Revoke a token; return whether there was one to revoke."""
    found = await connection.fetchval(
        "UPDATE auditap.api_tokens SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL RETURNING id",
        token_id,
    )
    return found is not None
