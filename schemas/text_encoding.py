"""What auditap asks of a database's text encoding."""

from __future__ import annotations

from typing import Protocol

from schemas.errors import StartupError


class Encodings(Protocol):
    """The parameters of a session that a Postgres server reports."""

    @property
    def server_encoding(self) -> str:
        """How the database stores text."""

    @property
    def client_encoding(self) -> str:
        """How the session sends and receives text."""


def require_utf8(session: Encodings) -> None:
    """Raise StartupError unless the database stores text as UTF-8 and the session sends it so.

    In any other encoding records with other characters than its own could not be stored.
    """
    if session.server_encoding.upper() not in {"UTF8", "UTF-8"}:
        raise StartupError(
            f"The database's encoding is {session.server_encoding}: create one with ENCODING 'UTF8', and migrate that."
        )
    # PgBouncer reports what the client sent, quotes included.
    if session.client_encoding.strip("'").upper() not in {"UTF8", "UTF-8"}:
        raise StartupError(
            f"The session's client_encoding is {session.client_encoding}: let the server, or the pooler before it, set UTF8."
        )
