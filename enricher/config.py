"""The enricher's settings.

An invalid setting raises StartupError with one sentence. The sentence never repeats a URL or a header, which may hold secrets.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import re2

from enricher.ports import FIELDS, Kind
from schemas.constants import Constant
from schemas.errors import StartupError
from schemas.urls import dsn_rule, has_unencoded_login

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_URL = re.compile(r"[\x21-\x7e]+")
_POINTER = re.compile(r"(/([^/~]|~[01])*)*")


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """How long the results for one kind of id are cached, how many, and how fast unknown ids are looked up."""

    ttl_ms: int = 300_000
    """How long a name is used before it is looked up again."""
    # How long an unknown id is not looked up again: soon after its directory has learned of it, its name shows. Doubled at
    # each lookup that does not find it, so that an id that stays unknown costs one lookup a minute.
    negative_ttl_ms: Constant[int] = 5_000
    negative_ttl_ms_max: Constant[int] = 60_000
    # Names in the cache, and beside them as many results without a name, and since when as many ids are unknown: some 65 MB
    # for each kind if all are full, and more ids than an hour's traffic has.
    entries_max: Constant[int] = 50_000
    stale_ms: int = 3_600_000
    """How long an expired name is used while it is looked up again or its service is down; 0: not at all."""
    unseen_per_s: float = 500
    """Lookups a second of ids without a cached result. Records beyond that stay partial until the backfill."""

    def __post_init__(self) -> None:
        _require_positive(
            "the enricher's cache", self, ("ttl_ms", "negative_ttl_ms", "negative_ttl_ms_max", "entries_max")
        )
        if self.stale_ms < 0:
            raise StartupError("stale_ms of the enricher's cache must not be negative.")
        if self.unseen_per_s <= 0:
            raise StartupError("unseen_per_s of the enricher's cache must be more than 0.")


@dataclass(frozen=True, slots=True)
class HttpLookupConfig:
    """How to look up ids of one kind over HTTP."""

    kind: Kind
    """What the ids name: account, zone, user or token."""
    url: str = field(repr=False)
    """A template with `{key}` exactly once, in its path or query."""
    pointers: Mapping[str, str]
    """The JSON pointer (RFC 6901) into the response for each field, such as `{ name = "/result/name" }`."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Request headers, such as `authorization`."""
    id_pointer: str | None = None
    """Where the response repeats the id. A response about another id is rejected."""
    key_syntax: str = r"[A-Za-z0-9_.:-]{1,128}"
    """An RE2 pattern. Ids that do not match it as a whole are never sent."""
    timeout_ms: int = 2_000
    """From sending the request to the end of the response."""
    concurrency_max: int = 8
    """Requests in flight, and connections kept open."""
    cache: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        lookup = f"the {self.kind} lookup"
        _require_url(lookup, self.url)
        _require_pointers(lookup, self.kind, self.pointers)
        _require_headers(lookup, self.headers)
        compile_syntax(lookup, self.key_syntax)
        if self.id_pointer is not None and not _POINTER.fullmatch(self.id_pointer):
            raise StartupError(f"id_pointer of {lookup} must be a JSON pointer such as /result/id.")
        _require_positive(lookup, self, ("timeout_ms", "concurrency_max"))


@dataclass(frozen=True, slots=True)
class PostgresLookupConfig:
    """How to look up ids of one kind in a Postgres database, many in one query."""

    kind: Kind
    """What the ids name: account, zone, user or token."""
    dsn: str = field(repr=False)
    """DSN of the database."""
    query: str
    """A SELECT with `$1`, the array of ids as text. Its column `key` holds the id that a row is about."""
    columns: Mapping[str, str]
    """The column of the result for each field, such as `{ name = "title" }`."""
    key_column: Constant[str] = "key"
    """The column that holds the id a row is about: the query can name any column so."""
    key_syntax: str = r"[A-Za-z0-9_.:-]{1,128}"
    """An RE2 pattern. Ids that do not match it as a whole are never sent."""
    timeout_ms: int = 2_000
    """For connecting and for the query; also the server's statement timeout."""
    connections_max: int = 2
    """Queries in flight."""
    cache: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        lookup = f"the {self.kind} query"
        if rule := dsn_rule(self.dsn):
            raise StartupError(f"dsn of {lookup} cannot be read: {rule}.")
        # The query becomes a subquery whose `$2` bounds its rows; a semicolon could end it early.
        if "$1" not in self.query or "$2" in self.query or ";" in self.query:
            raise StartupError(
                f"query of {lookup} must be one SELECT with $1, the array of keys, and no semicolon."
            )
        _require_fields("columns", lookup, self.kind, self.columns)
        if not all(name and "\0" not in name for name in (self.key_column, *self.columns.values())):
            raise StartupError(f"columns of {lookup} must have names.")
        compile_syntax(lookup, self.key_syntax)
        _require_positive(lookup, self, ("timeout_ms", "connections_max"))


@dataclass(frozen=True, slots=True)
class EnricherConfig:
    """The configured lookups, at most one for each kind, and how long a batch may wait for them."""

    http_lookups: tuple[HttpLookupConfig, ...] = ()
    postgres_lookups: tuple[PostgresLookupConfig, ...] = ()
    batch_budget_ms: int = 500
    """How long a batch of records waits for lookups before it is stored without the missing names."""
    unresolvable_after_ms: int = 3_600_000
    """How long after an action an id that its service does not know is looked up again, because a directory may learn of it late;
    0: not at all. Then the record is `unresolvable`."""

    def __post_init__(self) -> None:
        _require_positive("the enricher", self, ("batch_budget_ms",))
        if self.unresolvable_after_ms < 0:
            raise StartupError("unresolvable_after_ms of the enricher must not be negative.")
        kinds = Counter(each.kind for each in self.http_lookups)
        kinds.update(each.kind for each in self.postgres_lookups)
        for kind, count in kinds.items():
            if count > 1:
                raise StartupError(f"The {kind} lookup is configured twice; remove one of them.")


def compile_syntax(owner: str, pattern: str) -> Any:
    """Compile an RE2 pattern. Raises StartupError if RE2 does not accept it."""
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error:
        pass
    raise StartupError(f"key_syntax of {owner} is not a regular expression that RE2 accepts.")


def _require_positive(owner: str, config: object, names: Iterable[str]) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise StartupError(f"{name} of {owner} must be at least 1.")


def _require_url(owner: str, template: str) -> None:
    """Reject a URL template in which a key, or a mistake, could select another host."""
    if template.count("{key}") != 1 or not _URL.fullmatch(template):
        raise StartupError(f"url of {owner} must hold {{key}} exactly once, and no blanks.")
    # Checked before its parts are, because a password may stand in any of them.
    if "@" in template.partition("://")[2].partition("/")[0] or has_unencoded_login(template):
        raise StartupError(
            f"url of {owner} must not hold a user or password; use a header, and write %40 for an @ in its path."
        )
    try:
        parts = urlsplit(template)
        port = parts.port
    except ValueError:
        raise StartupError(f"url of {owner} is not a URL.") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise StartupError(f"url of {owner} must begin with http:// or https:// and a host.")
    if "{key}" not in parts.path + parts.query or "#" in template:
        raise StartupError(f"url of {owner} must hold {{key}} in its path or query, and no fragment.")


def _require_fields(setting: str, owner: str, kind: Kind, names: Collection[str]) -> None:
    fields = FIELDS[kind]
    if not names or not set(names) <= set(fields):
        raise StartupError(
            f"{setting} of {owner} must name at least one of {', '.join(fields)} and no other."
        )


def _require_pointers(owner: str, kind: Kind, pointers: Mapping[str, str]) -> None:
    _require_fields("pointers", owner, kind, pointers)
    for name, pointer in pointers.items():
        if not _POINTER.fullmatch(pointer):
            raise StartupError(f"pointer {name} of {owner} must be a JSON pointer such as /result/name.")


def _require_headers(owner: str, headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise StartupError(f"headers of {owner} must be names and values in printable ASCII.")
