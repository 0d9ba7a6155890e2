"""The enricher's settings. A wrong one raises StartupError with one sentence, which repeats no URL and no header."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import re2

from enricher.ports import FIELDS, Kind
from schemas.errors import StartupError

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_URL = re.compile(r"[\x21-\x7e]+")
_POINTER = re.compile(r"(/([^/~]|~[01])*)*")


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """How long the answers of one kind are kept, and how many; all at least 1."""

    ttl_ms: int = 300_000
    negative_ttl_ms: int = 30_000
    """How long an id stays unknown before it is asked for again."""
    failure_ttl_ms: int = 5_000
    """How long a key whose look-up failed is not asked for again."""
    entries_max: int = 50_000
    in_flight_max: int = 4_096
    """Look-ups begun and not ended, waiting ones included; one more fails at once."""
    look_up_ms_max: int = 10_000
    """What one look-up may take altogether, waiting for its turn included."""
    stale_ms: int = 3_600_000
    """How long after its time what was found is still given, while it is asked for anew or cannot be; 0: not at all."""
    unseen_per_s: float = 500
    """Look-ups of ids for which nothing was found before; what goes beyond leaves its records partial, for later."""
    unseen_burst: int = 5_000
    """How many of them may be asked for at once after a pause."""

    def __post_init__(self) -> None:
        names = [name for name in self.__slots__ if name not in {"stale_ms", "unseen_per_s"}]
        _require_positive("the enricher's cache", self, names)
        if self.stale_ms < 0:
            raise StartupError("stale_ms of the enricher's cache must not be negative.")
        if self.unseen_per_s <= 0:
            raise StartupError("unseen_per_s of the enricher's cache must be more than 0.")


@dataclass(frozen=True, slots=True)
class BreakerConfig:
    """When a service that does not answer is left alone, and for how long."""

    failures_max: int = 5
    """So many in a row: no connection, no answer in time, another status than 200, 404 or 410."""
    open_ms: int = 10_000
    """After this one look-up tries whether it is back."""

    def __post_init__(self) -> None:
        _require_positive("the enricher's breaker", self, self.__slots__)


@dataclass(frozen=True, slots=True)
class LookUpConfig:
    """How ids of one kind are asked for by HTTP.

    `url` is a template with `{key}` once, in its path or query. `pointers` maps fields of `FIELDS[kind]` to
    JSON pointers (RFC 6901) into the answer. `key_syntax` is an RE2 pattern that a whole key has to match to
    be sent.
    """

    kind: Kind
    url: str = field(repr=False)
    pointers: Mapping[str, str]
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    id_pointer: str | None = None
    """Where the answer repeats the id; an answer about another one is not believed."""
    key_syntax: str = r"[A-Za-z0-9_.:-]{1,128}"
    key_chars_max: int = 128
    timeout_ms: int = 2_000
    """From sending the request to the end of the answer."""
    answer_bytes_max: int = 65_536
    value_chars_max: int = 512
    """A name longer than this makes the answer one that cannot be trusted."""
    concurrency_max: int = 8
    """Requests of this kind under way at once, and connections kept."""
    breaker: BreakerConfig = field(default_factory=BreakerConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        who = f"the {self.kind} look-up"
        _require_url(who, self.url)
        _require_pointers(who, self.kind, self.pointers)
        _require_headers(who, self.headers)
        compile_syntax(who, self.key_syntax)
        if self.id_pointer is not None and not _POINTER.fullmatch(self.id_pointer):
            raise StartupError(f"id_pointer of {who} must be a JSON pointer such as /result/id.")
        _require_positive(
            who,
            self,
            ("key_chars_max", "timeout_ms", "answer_bytes_max", "value_chars_max", "concurrency_max"),
        )


@dataclass(frozen=True, slots=True)
class QueryConfig:
    """How ids of one kind are asked for in a Postgres database, many at a time.

    `query` is a SELECT with `$1`, the array of keys, as text. `columns` maps fields of `FIELDS[kind]` to the
    names of its columns; `key_column` says which key a row is about.
    """

    kind: Kind
    dsn: str = field(repr=False)
    query: str
    columns: Mapping[str, str]
    key_column: str = "key"
    key_syntax: str = r"[A-Za-z0-9_.:-]{1,128}"
    key_chars_max: int = 128
    timeout_ms: int = 2_000
    """For connecting and for the answer; the server's limit for the statement, too."""
    keys_max: int = 500
    """Keys in one query."""
    value_chars_max: int = 512
    """A name longer than this makes the answer one that cannot be trusted."""
    connections_max: int = 2
    """Queries under way at once."""
    breaker: BreakerConfig = field(default_factory=BreakerConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        who = f"the {self.kind} query"
        if not self.dsn.startswith(("postgresql://", "postgres://")):
            raise StartupError(f"dsn of {who} must begin with postgresql://.")
        if "$1" not in self.query or "$2" in self.query or ";" in self.query:
            raise StartupError(
                f"query of {who} must be one SELECT with $1, the array of keys, and no semicolon."
            )
        fields = FIELDS[self.kind]
        if not self.columns or not set(self.columns) <= set(fields):
            raise StartupError(
                f"columns of {who} must name at least one of {', '.join(fields)} and no other."
            )
        if not all(name and "\0" not in name for name in (self.key_column, *self.columns.values())):
            raise StartupError(f"columns of {who} must have names.")
        compile_syntax(who, self.key_syntax)
        _require_positive(
            who, self, ("key_chars_max", "timeout_ms", "keys_max", "value_chars_max", "connections_max")
        )


@dataclass(frozen=True, slots=True)
class EnricherConfig:
    """The kinds that are looked up (a kind left out is not asked for) and how long a batch may wait for them."""

    look_ups: tuple[LookUpConfig, ...] = ()
    queries: tuple[QueryConfig, ...] = ()
    batch_budget_ms: int = 500

    def __post_init__(self) -> None:
        _require_positive("the enricher", self, ("batch_budget_ms",))
        kinds = [look_up.kind for look_up in self.look_ups] + [query.kind for query in self.queries]
        for kind in set(kinds):
            if kinds.count(kind) > 1:
                raise StartupError(f"The {kind} look-up is configured twice; leave one of them.")


def compile_syntax(who: str, pattern: str) -> Any:
    """Return the compiled RE2 pattern of keys. Raises StartupError."""
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error:
        pass
    raise StartupError(f"key_syntax of {who} is not a regular expression that RE2 takes.")


def _require_positive(who: str, config: object, names: Iterable[str]) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise StartupError(f"{name} of {who} must be at least 1.")


def _require_url(who: str, template: str) -> None:
    """Refuse what would let a key, or a mistake, choose another host."""
    if template.count("{key}") != 1 or not _URL.fullmatch(template):
        raise StartupError(f"url of {who} must hold {{key}} exactly once, and no blanks.")
    try:
        parts = urlsplit(template)
        port = parts.port
    except ValueError:
        raise StartupError(f"url of {who} is not a URL.") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise StartupError(f"url of {who} must begin with http:// or https:// and a host.")
    if "@" in parts.netloc:
        raise StartupError(f"url of {who} must not hold a user or password; use a header.")
    if "{key}" not in parts.path + parts.query or "#" in template:
        raise StartupError(f"url of {who} must hold {{key}} in its path or query, and no fragment.")


def _require_pointers(who: str, kind: Kind, pointers: Mapping[str, str]) -> None:
    fields = FIELDS[kind]
    if not pointers or not set(pointers) <= set(fields):
        raise StartupError(f"pointers of {who} must name at least one of {', '.join(fields)} and no other.")
    for name, pointer in pointers.items():
        if not _POINTER.fullmatch(pointer):
            raise StartupError(f"pointer {name} of {who} must be a JSON pointer such as /result/name.")


def _require_headers(who: str, headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise StartupError(f"headers of {who} must be names and values in printable ASCII.")
