"""The few headers that are read; each is kept only if it stands exactly once and has the expected form (rule 14)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from redactor.config import HeaderNames
from redactor.decode.content_encodings import parse_content_codings
from redactor.decode.identifiers import valid_identifier, valid_owner_id
from redactor.decode.url import names_other_method
from schemas.capture import Headers

_REQUEST_ID_CHARS_MAX = 128
_REQUEST_ID = re.compile(r"[\w.:\-]{1,128}", re.ASCII)
_PLAIN_TEXT = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,1024}")
_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+\-]{1,127}/[a-z0-9!#$&^_.+\-]{1,127}")
_PARAMETER = re.compile(
    r"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:\"([^\"\\]*)\"|([!#$%&'*+.^_`|~0-9A-Za-z-]+))[ \t]*(?:;|$)"
)
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_UTF_8 = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
ACTOR_CONTEXTS = frozenset({"api", "api_key", "api_token", "dash", "oauth", "origin_ca_key"})
ACTOR_TYPES = frozenset({"account", "cloudflare_admin", "delegated_service", "system", "user"})
HEADER_FIELDS = (
    ("account.id", "account_id"),
    ("actor.id", "actor_id"),
    ("actor.email", "actor_email"),
    ("actor.type", "actor_type"),
    ("actor.context", "actor_context"),
    ("actor.token_id", "actor_token_id"),
    ("actor.token_name", "actor_token_name"),
)
"""Fields of the event, and the attribute of `HeaderNames` and `KeptHeaders` for each."""
HOST = "host"
CONTENT_LENGTH = "content-length"
_OVERRIDES = frozenset({"x-http-method-override", "x-http-method", "x-method-override"})


class HeaderFields:
    """The values of a message's `wanted` headers, by lower-case name. No other header is held."""

    __slots__ = ("_values",)

    def __init__(self, headers: Headers, wanted: frozenset[str]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in headers.items():
            # Some other letters have ASCII ones as their lower case, so a foreign name could become a wanted one.
            known = name.lower() if name.isascii() else ""
            if known in wanted:
                values = self._values.setdefault(known, [])
                values.extend([value] if isinstance(value, str) else value)

    def once(self, name: str) -> str | None:
        """Return the value of a header that stands exactly once, without surrounding blanks, or None."""
        values = self._values.get(name, ())
        return values[0].strip(" \t") if len(values) == 1 else None

    def present(self, name: str) -> bool:
        return name in self._values

    def says(self, name: str) -> bool:
        """Whether a header stands there with more than blanks."""
        return any(value.strip(" \t") for value in self._values.get(name, ()))

    def all(self, name: str) -> Iterable[str]:
        return self._values.get(name, ())


class KeptHeaders(NamedTuple):
    """What is kept of a pair's headers. None: missing, repeated, or not of the expected form."""

    actor_id: str | None
    actor_email: str | None
    actor_type: str | None
    actor_context: str | None
    actor_token_id: str | None
    actor_token_name: str | None
    account_id: str | None
    user_agent: str | None
    request_id: str | None

    @property
    def of_actor(self) -> tuple[str | None, ...]:
        """The values that identify the actor."""
        return self[:6]


def recordable_headers(names: HeaderNames) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of the headers that may be recorded of a request and of a response, in lower case."""
    request = {names.user_agent, names.client_address, *names.request_ids}
    actor = {names.actor_id, names.actor_email, names.actor_type, names.actor_context}
    token = {names.actor_token_id, names.actor_token_name, names.account_id}
    return frozenset(request) - {""}, frozenset(actor | token | set(names.request_ids)) - {""}


def readable_headers(names: HeaderNames) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of the headers that are read from a request and from a response, in lower case."""
    of_request, of_response = recordable_headers(names)
    framing = {"content-type", "content-encoding"}
    return of_request | framing | {HOST}, of_response | framing


class HeaderReader:
    """Reads the configured headers of a pair, as if those that are denied were not there."""

    def __init__(
        self,
        names: HeaderNames,
        denied_of_request: frozenset[str] = frozenset(),
        denied_of_response: frozenset[str] = frozenset(),
    ) -> None:
        self._names = names
        of_request, of_response = readable_headers(names)
        self._of_request = of_request - denied_of_request
        self._of_response = of_response - denied_of_response

    def of_request(self, headers: Headers) -> HeaderFields:
        return HeaderFields(headers, self._of_request)

    def of_response(self, headers: Headers) -> HeaderFields:
        return HeaderFields(headers, self._of_response)

    def kept(self, request: HeaderFields, response: HeaderFields) -> KeptHeaders:
        """Return what is kept of both messages' headers. Actor and account come from the response alone."""
        names = self._names
        return KeptHeaders(
            actor_id=valid_identifier(response.once(names.actor_id)),
            actor_email=valid_identifier(response.once(names.actor_email)),
            actor_type=_listed(ACTOR_TYPES, response.once(names.actor_type)),
            actor_context=_listed(ACTOR_CONTEXTS, response.once(names.actor_context)),
            actor_token_id=valid_identifier(response.once(names.actor_token_id)),
            actor_token_name=valid_identifier(response.once(names.actor_token_name)),
            account_id=valid_owner_id(response.once(names.account_id)),
            user_agent=kept_user_agent(request.once(names.user_agent)),
            request_id=self._request_id(request, response),
        )

    def refused(self, response: HeaderFields, kept: KeptHeaders) -> tuple[str, ...]:
        """Return the event's fields for which a header of the response gives something that is refused."""
        return tuple(
            field
            for field, attribute in HEADER_FIELDS
            if getattr(kept, attribute) is None and response.says(getattr(self._names, attribute))
        )

    def _request_id(self, request: HeaderFields, response: HeaderFields) -> str | None:
        for fields in (request, response):
            for name in self._names.request_ids:
                value = kept_request_id(fields.once(name))
                if value is not None:
                    return value
        return None


def kept_user_agent(value: str | None) -> str | None:
    return _fitting(_PLAIN_TEXT, None if value is None else value.strip(" \t"))


def kept_request_id(value: str | None) -> str | None:
    """Return a request id if it is ASCII that needs no escaping in JSON, or None."""
    if value is None:
        return None
    # The usual case, letters, digits and hyphens, is decided without a regular expression.
    if len(value) <= _REQUEST_ID_CHARS_MAX and value.isascii() and value.replace("-", "").isalnum():
        return value
    # A value that matches as it stands has no blanks around it.
    return value if _REQUEST_ID.fullmatch(value) is not None else _fitting(_REQUEST_ID, value.strip(" \t"))


def method_override_headers(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that override a request's method, in any spelling that a framework might accept."""
    return tuple(name for name in names if name.strip().lower().replace("_", "-") in _OVERRIDES)


def headers_override_method(headers: Headers, names: Iterable[str], method: str) -> bool:
    """Whether one of the headers `names`, which override the method, names another one than `method`."""
    for name in names:
        value = headers[name]
        values = [value] if isinstance(value, str) else value
        if any(names_other_method(each, method) for each in values):
            return True
    return False


class ContentType(NamedTuple):
    """The content type that a message declares."""

    essence: str | None
    """`type/subtype` in lower case; empty where it cannot be read, None where there is no such header."""
    charset: str = "utf-8"
    boundary: str | None = None


def content_type(fields: HeaderFields) -> ContentType:
    """Parse a message's content type. One that stands several times has an empty essence."""
    return parse_content_type((fields.once("content-type") or "") if fields.present("content-type") else None)


def parse_content_type(value: str | None) -> ContentType:
    """Parse a content type. One that is malformed, or declares a parameter twice, has an empty essence."""
    if value is None:
        return ContentType(None)
    value = value.strip(" \t")
    essence, _, rest = value.partition(";")
    essence = essence.strip(" \t").lower()
    if _MEDIA_TYPE.fullmatch(essence) is None:
        return ContentType("")
    parameters = _parameters(rest)
    charsets, boundaries = parameters.get("charset", ["utf-8"]), parameters.get("boundary", [])
    if len(charsets) > 1 or len(boundaries) > 1:
        return ContentType("")
    boundary = next((each for each in boundaries if _BOUNDARY.fullmatch(each)), None)
    return ContentType(essence, charsets[0].lower(), boundary)


def _parameters(text: str) -> dict[str, list[str]]:
    """Return a content type's parameters by name; none at all where one of them is malformed."""
    found: dict[str, list[str]] = {}
    position = 0
    while position < len(text):
        each = _PARAMETER.match(text, position)
        if each is None:
            return {}
        found.setdefault(each[1].lower(), []).append(each[3] if each[2] is None else each[2])
        position = each.end()
    return found


def media_type(fields: HeaderFields) -> str | None:
    """Return `ContentType.essence` of a message."""
    return content_type(fields).essence


def is_utf_8(kind: ContentType) -> bool:
    """Whether the body is text in UTF-8 or a subset of it, as far as the message says."""
    return kind.charset in _UTF_8


def content_codings(fields: HeaderFields) -> list[str]:
    """Return the content codings of the body, in the order they were applied."""
    return parse_content_codings(fields.all("content-encoding"))


def _fitting(pattern: re.Pattern[str], value: str | None) -> str | None:
    return value if value is not None and pattern.fullmatch(value) is not None else None


def _listed(values: frozenset[str], value: str | None) -> str | None:
    return value if value in values else None
