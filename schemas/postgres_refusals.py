"""Why Postgres, or what stands before it, refuses a session or a statement, and what to do about it, as sentences."""

from __future__ import annotations

import re
import socket
import ssl
from typing import Final, NamedTuple

_UNSUPPORTED: Final = re.compile(r"unsupported startup parameter: ([a-z_.]{1,63})")
_PROTOCOL_VIOLATION: Final = "08P01"
_INVALID_AUTHORIZATION: Final = "28000"
_INVALID_PASSWORD: Final = "28P01"  # noqa: S105  a state
_NO_DATABASE: Final = "3D000"
NO_PRIVILEGE: Final = "42501"
# A prepared statement that another session has, or that this one has no more.
_MIXED_SESSIONS: Final = frozenset({"42P05", "26000"})
# An older schema has no such table, column or function; an empty database has no such schema.
_NOT_MIGRATED: Final = frozenset({"42P01", "42703", "42883", "3F000"})
# The parts of OpenSSL that read certificates and keys.
_READERS_OF_FILES: Final = frozenset({"PEM", "X509"})

NOT_MIGRATED: Final = "The database lacks a table or function of this version: run `auditap migrate`."


class Login(NamedTuple):
    """A login of ours, as sentences name it."""

    name: str
    setting: str
    """The setting with its DSN."""
    user: str
    """Whom the DSN has to name."""
    task: str
    """What only this user may do."""

    @property
    def privilege_refusal(self) -> str:
        """The sentence for a login that may not do its task."""
        return f"Postgres lets the {self.name}'s login in, but not {self.task}: {self.setting} has to name {self.user}."


ADMINISTRATOR: Final = Login(
    "administrator", "postgres.admin_dsn", "the owner of auditap's tables, or a superuser", "do this"
)
ALERTING: Final = Login("alerting role", "postgres.alerting_dsn", "auditap_alerting", "store alerts")
MAINTAINER: Final = Login(
    "maintainer", "postgres.maintainer_dsn", "auditap_maintainer", "drop expired partitions"
)
OPERATOR: Final = Login("operator", "postgres.operator_dsn", "auditap_operator", "do this")
READER: Final = Login("reader", "postgres.reader_dsn", "auditap_reader", "read the log")
WRITER: Final = Login("writer", "postgres.writer_dsn", "auditap_writer", "store records")


def login_refusal(error: BaseException, login: Login) -> str | None:
    """Return what to do about an error of connecting or of a statement, as one sentence; None if it may pass, or is another one."""
    state = getattr(error, "sqlstate", None)
    refusal = session_refusal(error)
    if refusal is not None:
        return refusal
    if state in {_INVALID_AUTHORIZATION, _INVALID_PASSWORD}:
        return f"Postgres refuses the {login.name}'s login: check user and password in {login.setting}."
    if state == _NO_DATABASE:
        return f"Postgres has no database of the name in {login.setting}: correct it, or create the database."
    return login.privilege_refusal if state == NO_PRIVILEGE else None


def start_refusal(error: BaseException, login: Login) -> str | None:
    """Return what `login_refusal` does; here, at start, a ValueError is about the DSN."""
    refusal = login_refusal(error, login)
    if refusal is None and isinstance(error, ValueError):
        return f"The DSN in {login.setting} cannot be read: correct it."
    return refusal


def session_refusal(error: BaseException) -> str | None:
    """Return what to do about a fault of a DSN, a server or a pooler that does not pass by itself, whoever logs in.

    Of the error's own words the sentence repeats the name of a parameter that auditap sends, and nothing else.
    """
    if isinstance(error, ssl.SSLError):
        return _certificate_refusal(error)
    text = str(error)
    # asyncpg raises a bare ConnectionError here.
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in text:
        return "Postgres does not offer TLS, which the DSN requires: turn ssl on there, or lower sslmode of the DSN."
    state = getattr(error, "sqlstate", None)
    if state == _PROTOCOL_VIOLATION and (parameter := _UNSUPPORTED.search(text)):
        return (
            f"A pooler before Postgres refuses the parameter {parameter[1]}: connect to Postgres itself, or let the pooler pool"
            " sessions and ignore the parameter (PgBouncer: pool_mode = session, ignore_startup_parameters)."
        )
    if state in _MIXED_SESSIONS:
        return (
            "A pooler before Postgres mixes sessions: let it pool sessions (PgBouncer: pool_mode = session), or connect to"
            " Postgres itself."
        )
    if state == _INVALID_AUTHORIZATION and "no encryption" in text:
        return "Postgres refuses sessions without TLS: set sslmode=require, or verify-full, in the DSN."
    return None


def _certificate_refusal(error: ssl.SSLError) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            "Postgres' certificate cannot be verified: name its authority in sslrootcert of the DSN, and the host as the"
            " certificate does."
        )
    # An error that Python itself raises has no library.
    if getattr(error, "library", None) in _READERS_OF_FILES:
        return (
            "A file that the DSN names in sslrootcert, sslcert or sslkey is no PEM file, or the key is another certificate's:"
            " correct it."
        )
    return None


def is_not_migrated(error: BaseException) -> bool:
    """Whether the database has no auditap tables, or those of an older version."""
    return getattr(error, "sqlstate", None) in _NOT_MIGRATED


def cause_of(error: BaseException, login: Login) -> str:
    """Return why a login's statement failed, for an error or a log line: what to do, as a sentence, else the error's type."""
    if refusal := login_refusal(error, login):
        return refusal
    if is_not_migrated(error):
        return NOT_MIGRATED
    if isinstance(error, socket.gaierror):
        return f"The name of the host in {login.setting} does not resolve."
    if isinstance(error, FileNotFoundError):
        return f"A socket or a certificate that {login.setting} names does not exist."
    return f"Postgres: {type(error).__name__}"
