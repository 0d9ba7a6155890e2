"""What an operator configures of the redactor. Immutable; a wrong value raises StartupError when it is constructed."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from redactor.decode.client_address import ClientAddresses
from redactor.decode.url import parse_host
from redactor.issuer_config import IssuerConfig, check_issuers
from schemas.constants import Constant
from schemas.errors import StartupError

ContainerMarks = Literal["presence", "inherit"]

_DEPTH_CEILING = 128  # bodies are walked by recursion, which must stay far below the interpreter's limit
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]*")

_CREDENTIAL_HEADERS: Final = frozenset(
    {
        "authentication-info",
        "authorization",
        "cookie",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "set-cookie",
        "set-cookie2",
        "www-authenticate",
        "x-api-key",
        "x-auth-key",
        "x-auth-token",
        "x-auth-user-service-key",
    }
)
"""Headers whose value lets its reader in, or says how. None is ever recorded."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what is read and on what is written."""

    body_bytes_max: int = 1_048_576
    """A body above this is dropped as `too_large`. Captures may be four times as long, and 4 MiB in any case."""
    depth_max: Constant[int] = 64
    """A body nested deeper than this is dropped as `too_deep`."""
    free_form_bytes_max: Constant[int] = 65_536
    """A free-form object whose JSON text is longer is recorded as `{}` (rule 4)."""
    free_form_depth_max: Constant[int] = 16
    """A free-form object nested deeper is recorded as `{}`; the object itself counts as one level."""
    uri_bytes_max: Constant[int] = 16_384
    """Bound on the recorded path and query; query parameters that do not fit are left out one by one."""
    number_chars_max: Constant[int] = 128
    """A number that is written longer does not fit its schema: it breaks the JSON readers of whoever queries the log (rule 6)."""
    form_fields_max: Constant[int] = 1_000
    """A form with more fields is dropped as `too_large`."""
    lines_max: Constant[int] = 10_000
    """An NDJSON body with more lines is dropped as `too_large`."""
    capture_bytes_max: Constant[int] = 8_388_608
    """A capture whose JSON text is longer is refused."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise StartupError(f"The redactor's limit {name} must be at least 1.")
        if self.depth_max > _DEPTH_CEILING:
            raise StartupError(f"The redactor's limit depth_max must be at most {_DEPTH_CEILING}.")


@dataclass(frozen=True, slots=True)
class HeaderNames:
    """The names of the headers that are read, in lower case; an empty name or tuple reads none (rule 14). Headers that carry
    credentials, such as `authorization`, are refused.

    Actor and account are read from the response alone, because a client could forge them on its request.
    """

    actor_id: str = "x-actor-id"
    """Response header with the actor's id."""
    actor_email: str = "x-actor-email"
    """Response header with the actor's e-mail address."""
    actor_type: str = "x-actor-type"
    """Response header with the kind of actor, such as `user`."""
    actor_context: str = "x-actor-context"
    """Response header with how the actor came in, such as `api_key`."""
    actor_token_id: str = "x-actor-token-id"  # noqa: S105  a header's name
    """Response header with the id of the actor's token."""
    actor_token_name: str = "x-actor-token-name"  # noqa: S105  a header's name
    """Response header with the name of the actor's token."""
    account_id: str = "x-account-id"
    """Response header with the account."""
    user_agent: str = "user-agent"
    """Request header with the user agent."""
    client_address: str = ""
    """Request header in which trusted proxies write the client's address: `x-forwarded-for`, `forwarded`, or one with a single address,
    such as `cf-connecting-ip`. Read only of requests that come from `redaction.trusted_proxies`."""
    request_ids: tuple[str, ...] = ("cf-ray", "x-request-id")
    """Headers with a request id. The first that occurs exactly once counts, on the request before the response."""

    def __post_init__(self) -> None:
        for setting in self.__slots__:
            names = self.request_ids if setting == "request_ids" else (getattr(self, setting),)
            if not all(map(_HEADER_NAME.fullmatch, names)):
                raise StartupError(
                    f"redaction.headers.{setting}: write the name of a header alone and in lower case, such as `x-actor-id`."
                )
            if not _CREDENTIAL_HEADERS.isdisjoint(names):
                raise StartupError(
                    f"redaction.headers.{setting} names a header that carries credentials, which would be recorded: name another."
                )


@dataclass(frozen=True, slots=True)
class DocumentConfig:
    """One OpenAPI document, JSON or YAML."""

    path: Path
    """File of the OpenAPI document."""
    envelope: str | None = None
    """The property of a response's root that is recorded in the response's place (rule 12)."""
    container_marks: ContainerMarks = "presence"
    """Whether a mark on a container reaches its children (rule 3)."""
    hosts: tuple[str, ...] = ()
    """The hosts that it applies to, by name alone: `api.example.com`, or an address: `10.0.0.1`, `[::1]`. Case, and the port of a
    request, do not matter. Empty: those of its `servers`, or any host if it is the only document."""
    base_paths: tuple[str, ...] = ()
    """Base paths as the tap sees them, where a proxy strips or adds some; `/` is none. Empty: those of its `servers`."""

    def __post_init__(self) -> None:
        for each in self.hosts:
            host = parse_host(each)
            # A port, which parse_host takes off a request's host, has no meaning here.
            if not host or host != each.lower().removesuffix("."):
                raise StartupError(
                    f"redaction.documents[].hosts of {self.path}: write a host name alone, such as `api.example.com`, without"
                    " scheme, port, path or `*`; other letters in their `xn--` form, an IPv6 address in brackets."
                )
        object.__setattr__(self, "hosts", tuple(map(parse_host, self.hosts)))
        for each in self.base_paths:
            is_literal = each.startswith("/") and not set(each) & set("{}?#;%\\")
            if not is_literal or "//" in each or ".." in each.split("/"):
                raise StartupError(
                    f"redaction.documents[].base_paths of {self.path}: begin with a slash, one at a time, and be literal, such as `/api/v2`, or"
                    " `/` for none."
                )


@dataclass(frozen=True, slots=True)
class RedactionConfig:
    """Everything that decides what is kept, besides the marks in the documents."""

    documents: tuple[DocumentConfig, ...] = ()
    headers: HeaderNames = field(default_factory=HeaderNames)
    limits: Limits = field(default_factory=Limits)
    path_parameters_kept: frozenset[str] = frozenset()
    """Names of path parameters whose value is recorded although they are not marked; a denial still wins (rule 13)."""
    get_responses_kept: frozenset[str] = frozenset()
    """Ids of operations whose GET response is redacted and recorded; no document can add to this (rule 8)."""
    excluded_operations: frozenset[str] = frozenset()
    """Ids of operations that are not recorded at all."""
    trailing_slash_allowed: bool = False
    """Whether a path with one slash at its end matches as if it had none."""
    exchange_facts_kept: bool = False
    """Whether the host that was asked, the duration, and the size of the response's body are recorded, with every pair. Request logs show
    them. No document marks them, and the size tells of values that are dropped."""
    trusted_proxies: tuple[str, ...] = ()
    """Networks of the proxies before the tap, such as `10.0.0.0/8`, whose word on the client's address counts
    (`redaction.headers.client_address`). Empty: the address of the tap's peer is recorded."""
    issuers: tuple[IssuerConfig, ...] = ()
    """Issuers of signed tokens that say who acts; without them, tokens are not read."""

    def __post_init__(self) -> None:
        names = self.headers
        check_issuers(self.issuers, frozenset({names.user_agent, names.client_address, *names.request_ids}))
        try:
            ClientAddresses(self.headers.client_address, self.trusted_proxies)
        except ValueError:
            is_network = False
        else:
            is_network = True
        if not is_network:
            raise StartupError(
                "redaction.trusted_proxies: write addresses or networks, such as 10.0.0.0/8 or 2001:db8::/32, with no bit set behind"
                " the prefix."
            )
        if bool(self.trusted_proxies) != bool(self.headers.client_address):
            raise StartupError(
                "redaction.trusted_proxies and redaction.headers.client_address are of use together: name the proxies' networks"
                " and the request header that they write, such as x-forwarded-for."
            )

    @property
    def client_addresses(self) -> ClientAddresses | None:
        """How the client's address is found behind trusted proxies; None where there are none."""
        if not self.trusted_proxies:
            return None
        return ClientAddresses(self.headers.client_address, self.trusted_proxies)
