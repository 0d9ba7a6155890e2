"""The roles that processes log in as, and their passwords."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os

from auditap.database.connection import Connection

ROLES = ("auditap_writer", "auditap_reader", "auditap_maintainer", "auditap_alerting", "auditap_operator")
"""For `ingest`, `serve`, `retention`, `alerting` and `dead-letters`."""
_SCRAM_ITERATIONS = 4096


async def roles_that_log_in(connection: Connection) -> frozenset[str]:
    """Return our roles that may log in: migrations make them without that, and `set_role_password` or an administrator adds it."""
    rows = await connection.fetch(
        "SELECT rolname FROM pg_catalog.pg_roles WHERE rolcanlogin AND rolname = ANY($1::pg_catalog.text[])",
        list(ROLES),
    )
    return frozenset(row["rolname"] for row in rows)


async def set_role_password(connection: Connection, role: str, password: str) -> None:
    """Let one of our roles log in with a password. The server receives a SCRAM verifier, so its log never holds the password."""
    if role not in ROLES:
        raise ValueError("not a role of auditap")
    await connection.execute(f"ALTER ROLE {role} LOGIN PASSWORD '{scram_verifier(password)}'")


def scram_verifier(password: str) -> str:
    """Return the SCRAM-SHA-256 verifier that Postgres stores for a password (RFC 5803)."""
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _SCRAM_ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    salt64, stored64, server64 = (base64.b64encode(part).decode() for part in (salt, stored_key, server_key))
    return f"SCRAM-SHA-256${_SCRAM_ITERATIONS}:{salt64}${stored64}:{server64}"
