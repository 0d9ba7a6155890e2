"""The enricher's settings. A wrong one raises StartupError with one sentence, which repeats no URL and no header."""

from __future__ import annotations

import re
from collections.abc import Mapping
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

    def __post_init__(self) -> None:
        _require_positive("the enricher's cache", self, self.__slots__)


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
    key_syntax: str = r"[A-Za-z0-9_.:-]{1,128}"
    timeout_ms: int = 2_000
    """From sending the request to the end of the answer."""
    answer_bytes_max: int = 65_536
    value_chars_max: int = 512
    """A name longer than this makes the answer one that cannot be trusted."""
    concurrency_max: int = 8
    """Requests of this kind under way at once, and connections kept."""
    cache: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        who = f"the {self.kind} look-up"
        _require_url(who, self.url)
        _require_pointers(who, self.kind, self.pointers)
        _require_headers(who, self.headers)
        compile_syntax(who, self.key_syntax)
        _require_positive(who, self, ("timeout_ms", "answer_bytes_max", "value_chars_max", "concurrency_max"))


@dataclass(frozen=True, slots=True)
class EnricherConfig:
    """The kinds that are looked up (a kind left out is not asked for) and how long a batch may wait for them."""

    look_ups: tuple[LookUpConfig, ...] = ()
    batch_budget_ms: int = 500

    def __post_init__(self) -> None:
        _require_positive("the enricher", self, ("batch_budget_ms",))
        kinds = [look_up.kind for look_up in self.look_ups]
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


def _require_positive(who: str, config: object, names: tuple[str, ...]) -> None:
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
