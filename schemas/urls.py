"""URLs in which a login stands: DSNs, and the addresses that operators configure."""

from __future__ import annotations

import os
import re
from ipaddress import IPv6Address
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

PERCENT_ENCODE: Final = (
    "percent-encode / @ # ? and [ ] in its user and password (/ is %2F, @ is %40, # is %23, ? is %3F)"
)
"""What to do about an unencoded login, as the end of a sentence."""

_SOCKET_PATH_BYTES_MAX: Final = 103
"""The least that an operating system allows (macOS; Linux: 107)."""
_UNKNOWN_PARAMETERS: Final = frozenset(
    {
        "connect_timeout",
        "gssencmode",
        "hostaddr",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "require_auth",
        "requirepeer",
        "sslcertmode",
        "sslcompression",
        "sslsni",
        "tcp_user_timeout",
    }
)
"""Parameters of other clients' DSNs."""
_SSL_MODES: Final = frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"})
_HOST_AND_PORT: Final = re.compile(r"(\[[\w:.%]+\]|[\w.%~-]*)(?::([0-9]{0,5}))?")
_LABEL_CHARS_MAX: Final = 63
_SERVERS: Final = (
    "write its server as host, or host:port with a port from 1 to 65535, an IPv6 address in brackets"
)
_END_OF_AUTHORITY: Final = re.compile(r"[/?#]")


def has_unencoded_login(url: str) -> bool:
    """Return whether user or password of a URL seem to hold a character that has to be percent-encoded.

    Such a URL names another host than its author means, and a message about that host would show a piece of the password.
    An `@` further on that belongs to no login is taken for one if a port or a login stands before it.
    """
    rest = url.partition("://")[2]
    authority = _END_OF_AUTHORITY.split(rest, maxsplit=1)[0]
    login, _, _ = authority.rpartition("@")
    if "@" in login or "[" in login or "]" in login:
        return True
    # The `@` that ends the login is the last one. What looks like a port before it is the beginning of a password.
    return rest.rfind("@") > len(authority) and ":" in authority


def is_host_and_port(text: str) -> bool:
    """Return whether a text is `host:port`, `host`, or nothing, and the host one that can be looked up."""
    found = _HOST_AND_PORT.fullmatch(text)
    if found is None or not 1 <= int(found[2] or 1) <= 65_535:
        return False
    host = found[1].removesuffix(".")
    if host.startswith("["):
        return _is_ipv6(host[1:-1])
    # The percent-encoded path of a socket has no labels.
    is_name = host and "%" not in host
    return not is_name or all(1 <= len(label) <= _LABEL_CHARS_MAX for label in host.split("."))


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def dsn_rule(dsn: str) -> str | None:
    """Return what a Postgres DSN has to be, and is not, as the end of a sentence; None if nothing is wrong with it."""
    if not dsn.startswith(("postgresql://", "postgres://")):
        return "begin it with postgresql://"
    if has_unencoded_login(dsn):
        return PERCENT_ENCODE
    try:
        parts = urlsplit(dsn)
    except ValueError:
        return _SERVERS
    if not all(map(is_host_and_port, parts.netloc.rpartition("@")[2].split(","))):
        return _SERVERS
    return _parameters_rule(parts.query)


def _parameters_rule(query: str) -> str | None:
    parameters = parse_qs(query, keep_blank_values=True)
    if not _SSL_MODES.issuperset(parameters.get("sslmode", ())):
        return f"sslmode is one of {', '.join(sorted(_SSL_MODES))}"
    if not all(
        is_host_and_port(f":{port}") for ports in parameters.get("port", ()) for port in ports.split(",")
    ):
        return "port is a number from 1 to 65535"
    # The client library would send these to the server as settings, which no server knows.
    if "channel_binding" in parameters:
        return "leave out channel_binding, which auditap cannot do; with sslmode=verify-full TLS authenticates the server"
    if unknown := sorted(_UNKNOWN_PARAMETERS.intersection(parameters)):
        return f"leave out {unknown[0]}, which auditap does not know"
    return None


def postgres_socket_folder(data_dir: Path) -> Path | None:
    """Return where the embedded Postgres of this folder has its Unix socket; None where the path would be too long."""
    folder = data_dir.absolute() / "socket"
    longest = folder / ".s.PGSQL.65535"
    return folder if len(os.fsencode(longest)) <= _SOCKET_PATH_BYTES_MAX else None


def embedded_dsn(data_dir: Path, role: str, password: str, port: int, database: str) -> str:
    """Return the DSN of the embedded Postgres of this folder: by its Unix socket where there is one, else by loopback."""
    folder = postgres_socket_folder(data_dir)
    if folder is None:
        return f"postgresql://{role}:{password}@127.0.0.1:{port}/{database}?sslmode=disable"
    return f"postgresql://{role}:{password}@/{database}?host={quote(str(folder))}&port={port}"
