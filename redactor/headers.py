"""The few headers that are read, each only if it stands exactly once and looks as it should (rule 14)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from redactor.config import HeaderNames
from redactor.encodings import listed_codings
from schemas.capture import Headers

_REQUEST_ID_CHARS_MAX = 128
_REQUEST_ID = re.compile(r"[\w.:\-]{1,128}", re.ASCII)
_IDENTIFIER = re.compile(r"[\w.:@|\-]{1,128}", re.ASCII)
_EMAIL = re.compile(
    r"[^\s@\"(),:;<>\[\\\]\x00-\x20\x7f-\x9f]{1,128}@[^\s@\"(),:;<>\[\\\]\x00-\x20\x7f-\x9f]{1,253}"
)
_PLAIN_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,256}")
_PLAIN_TEXT = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,1024}")
_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+\-]{1,127}/[a-z0-9!#$&^_.+\-]{1,127}")
_PARAMETER = re.compile(
    r"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:\"([^\"\\]*)\"|([!#$%&'*+.^_`|~0-9A-Za-z-]+))[ \t]*(?:;|$)"
)
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_UTF_8 = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
ACTOR_CONTEXTS = frozenset({"api", "api_key", "api_token", "dash", "oauth", "origin_ca_key"})
ACTOR_TYPES = frozenset({"account", "cloudflare_admin", "delegated_service", "system", "user"})
_OVERRIDES = frozenset({"x-http-method-override", "x-http-method", "x-method-override"})


class Fields:
    """The values of the headers asked for, by lower-case name; nothing else of a message's headers is held."""

    __slots__ = ("_values",)

    def __init__(self, headers: Headers, wanted: frozenset[str]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in headers.items():
            # Lowering other than ASCII could turn a foreign name into a wanted one.
            known = name.lower() if name.isascii() else ""
            if known in wanted:
                values = self._values.setdefault(known, [])
                values.extend([value] if isinstance(value, str) else value)

    def once(self, name: str) -> str | None:
        """Return the value of a header that stands exactly once."""
        values = self._values.get(name, ())
        return values[0].strip(" \t") if len(values) == 1 else None

    def present(self, name: str) -> bool:
        """Tell whether a header stands at all."""
        return name in self._values

    def all(self, name: str) -> Iterable[str]:
        """Return every value of a header."""
        return self._values.get(name, ())


class Known(NamedTuple):
    """What was kept of a pair's headers."""

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
        """All that says who it was."""
        return self[:6]


def header_names(names: HeaderNames) -> tuple[frozenset[str], frozenset[str]]:
    """Return which headers may be read of a request and of a response, in lower case."""
    framing = {"content-type", "content-encoding"}
    request = {names.user_agent, *names.request_ids, "host"}
    actor = {names.actor_id, names.actor_email, names.actor_type, names.actor_context}
    token = {names.actor_token_id, names.actor_token_name, names.account_id}
    of_response = actor | token | set(names.request_ids) | framing
    return frozenset(request | framing) - {""}, frozenset(of_response) - {""}


class HeaderReader:
    """Reads the configured headers of a pair."""

    def __init__(self, names: HeaderNames) -> None:
        self._names = names
        self._of_request, self._of_response = header_names(names)

    def of_request(self, headers: Headers) -> Fields:
        """Return what may matter of a request's headers."""
        return Fields(headers, self._of_request)

    def of_response(self, headers: Headers) -> Fields:
        """Return what may matter of a response's headers."""
        return Fields(headers, self._of_response)

    def known(self, request: Fields, response: Fields) -> Known:
        """Return the values that are kept."""
        names = self._names
        return Known(
            actor_id=_fitting(_IDENTIFIER, response.once(names.actor_id)),
            actor_email=_fitting(_EMAIL, response.once(names.actor_email)),
            actor_type=_listed(ACTOR_TYPES, response.once(names.actor_type)),
            actor_context=_listed(ACTOR_CONTEXTS, response.once(names.actor_context)),
            actor_token_id=_fitting(_IDENTIFIER, response.once(names.actor_token_id)),
            actor_token_name=_fitting(_PLAIN_NAME, response.once(names.actor_token_name)),
            account_id=_fitting(_REQUEST_ID, response.once(names.account_id)),
            user_agent=kept_user_agent(request.once(names.user_agent)),
            request_id=self._request_id(request, response),
        )

    def _request_id(self, request: Fields, response: Fields) -> str | None:
        for fields in (request, response):
            for name in self._names.request_ids:
                value = kept_request_id(fields.once(name))
                if value is not None:
                    return value
        return None


def kept_user_agent(value: str | None) -> str | None:
    """Return a user agent as it is kept, None where it is not."""
    return _fitting(_PLAIN_TEXT, None if value is None else value.strip(" \t"))


def kept_request_id(value: str | None) -> str | None:
    """Return a request's id as it is kept, None where it is not: ASCII without anything to escape."""
    if value is None:
        return None
    # Most are letters and digits, with hyphens between them.
    if len(value) <= _REQUEST_ID_CHARS_MAX and value.isascii() and value.replace("-", "").isalnum():
        return value
    # A value that fits as it stands has no spaces around it.
    return value if _REQUEST_ID.fullmatch(value) is not None else _fitting(_REQUEST_ID, value.strip(" \t"))


def overrides_method(headers: Headers) -> bool:
    """Tell whether a header asks for another method than the request line does, as any framework might read it."""
    return any(name.strip().lower().replace("_", "-") in _OVERRIDES for name in headers)


class ContentType(NamedTuple):
    """What a message says of its body's type."""

    essence: str | None
    """`type/subtype` in lower case, empty where it cannot be told, None where the message does not say."""
    charset: str = "utf-8"
    boundary: str | None = None


def content_type(fields: Fields) -> ContentType:
    """Return the content type, parameters and all; one that is not written as it should be has no essence."""
    if not fields.present("content-type"):
        return ContentType(None)
    value = (fields.once("content-type") or "").strip(" \t")
    essence, _, rest = value.partition(";")
    essence = essence.strip(" \t").lower()
    if _MEDIA_TYPE.fullmatch(essence) is None:
        return ContentType("")
    given = _parameters(rest)
    charsets, boundaries = given.get("charset", ["utf-8"]), given.get("boundary", [])
    if len(charsets) > 1 or len(boundaries) > 1:
        return ContentType("")
    boundary = next((each for each in boundaries if _BOUNDARY.fullmatch(each)), None)
    return ContentType(essence, charsets[0].lower(), boundary)


def _parameters(text: str) -> dict[str, list[str]]:
    """Return a content type's parameters; none where one of them is not written as it should be."""
    found: dict[str, list[str]] = {}
    position = 0
    while position < len(text):
        each = _PARAMETER.match(text, position)
        if each is None:
            return {}
        found.setdefault(each[1].lower(), []).append(each[3] if each[2] is None else each[2])
        position = each.end()
    return found


def media_type(fields: Fields) -> str | None:
    """Return the essence of the content type, empty where it cannot be told, None where there is none."""
    return content_type(fields).essence


def is_read_as_utf_8(kind: ContentType) -> bool:
    """Tell whether the message does not say that its text is in another character set."""
    return kind.charset in _UTF_8


def content_codings(fields: Fields) -> list[str]:
    """Return the codings applied to the body, in their order."""
    return listed_codings(fields.all("content-encoding"))


def _fitting(pattern: re.Pattern[str], value: str | None) -> str | None:
    return value if value is not None and pattern.fullmatch(value) is not None else None


def _listed(values: frozenset[str], value: str | None) -> str | None:
    return value if value in values else None
