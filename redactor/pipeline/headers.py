"""The stage that records headers (rule 14).

The reference reads every header of the two messages. The fast path works out once, for each set of header names, where
the wanted ones stand: gateways send few different sets. What is remembered is bounded, and of values only those that
were kept are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any, Final

from redactor.compile.denied_headers import NO_HEADERS, DeniedHeaders
from redactor.config import HeaderNames
from redactor.decode.client_address import ClientAddresses
from redactor.decode.headers import (
    HeaderFields,
    HeaderReader,
    KeptHeaders,
    headers_override_method,
    kept_request_id,
    kept_user_agent,
    method_override_headers,
    readable_headers,
)
from redactor.pipeline.stages import RecordedHeaders
from schemas.addresses import parse_address
from schemas.capture import Capture, Headers
from schemas.event import Account, Actor

_NAME_SETS_MAX: Final = 1_024
_NAMES_CHARS_MAX: Final = 4_096  # longer sets of names are not remembered
_VALUES_MAX: Final = 8_192
_VALUE_CHARS_MAX: Final = 1_024


class ReferenceHeaders:
    """Records the headers of any pair."""

    def __init__(
        self,
        names: HeaderNames,
        client_addresses: ClientAddresses | None = None,
        denied: DeniedHeaders = NO_HEADERS,
    ) -> None:
        """`denied`: the headers that are read as if they were not there."""
        self._names = names
        self._client_addresses = client_addresses
        self._reader = HeaderReader(names, denied.of_request, denied.of_response)

    def record_without(self, capture: Capture, denied: DeniedHeaders) -> RecordedHeaders:
        """Return what is recorded where the document denies some headers (rule 5)."""
        return ReferenceHeaders(self._names, self._client_addresses, denied).record(capture)

    def record(self, capture: Capture) -> RecordedHeaders:
        request = self._reader.of_request(capture.request.headers)
        response = self._reader.of_response(capture.response.headers)
        kept = self._reader.kept(request, response)
        client_ip = capture.client_ip
        if self._client_addresses is not None:
            lines = tuple(request.all(self._client_addresses.header))
            client_ip = self._client_addresses.of(client_ip, lines)
        return RecordedHeaders(
            _actor(kept, client_ip),
            Account(kept.account_id),
            kept.user_agent,
            kept.request_id,
            headers_override_method(
                capture.request.headers,
                method_override_headers(capture.request.headers),
                capture.request.method,
            ),
            _content_type(request),
            request.present("content-encoding"),
            _content_type(response),
            response.present("content-encoding"),
            self._refused(response, kept, client_ip),
        )

    def _refused(self, response: HeaderFields, kept: KeptHeaders, client_ip: str | None) -> tuple[str, ...]:
        of_headers = self._reader.refused(response, kept)
        return (
            (*of_headers, "actor.ip_address") if client_ip and _ip_address(client_ip) is None else of_headers
        )


def _actor(kept: KeptHeaders, client_ip: str | None) -> Actor:
    return Actor(
        id=kept.actor_id,
        context=kept.actor_context,
        email=kept.actor_email,
        ip_address=_ip_address(client_ip),
        token_id=kept.actor_token_id,
        token_name=kept.actor_token_name,
        type=kept.actor_type,
    )


def _ip_address(text: str | None) -> str | None:
    """Return an IP address in its usual form; None for one with a zone, and for what is none."""
    address = None if text is None or "%" in text else parse_address(text)
    return None if address is None else str(address)


def _content_type(fields: HeaderFields) -> str | None:
    if not fields.present("content-type"):
        return None
    values = tuple(fields.all("content-type"))
    return values[0] if len(values) == 1 else ""


class HeaderSet:
    """Where the wanted headers stand among a message's: the name of each as it was written."""

    __slots__ = (
        "actor_names",
        "actor_values",
        "client_address",
        "content_type",
        "is_encoded",
        "number",
        "overrides",
        "request_ids",
        "user_agent",
    )

    def __init__(
        self, written: tuple[str, ...], names: Mapping[str, str], config: HeaderNames, number: int
    ) -> None:
        self.number = number
        self.overrides = method_override_headers(written)
        # Any, because `headers.get(None)` is None: the cheapest look-up of a header that may be absent.
        self.content_type: Any = names.get("content-type")
        self.is_encoded = "content-encoding" in names
        self.user_agent: Any = names.get(config.user_agent)
        self.client_address: Any = names.get(config.client_address)
        self.request_ids = tuple(names[name] for name in config.request_ids if name in names)
        of_actor = (
            *(config.actor_id, config.actor_email, config.actor_type, config.actor_context),
            *(config.actor_token_id, config.actor_token_name, config.account_id),
        )
        self.actor_names = sum(name in names for name in of_actor)
        present = [names[name] for name in dict.fromkeys(of_actor) if name in names]
        self.actor_values: Callable[[Headers], Any] = itemgetter(*present) if present else _nothing
        """Reads the values of all headers that name the actor or the account."""


def _nothing(_: Headers) -> None:
    return None


class FastHeaders(ReferenceHeaders):
    """Records the headers of messages in which no wanted one stands twice."""

    def __init__(self, names: HeaderNames, client_addresses: ClientAddresses | None = None) -> None:
        super().__init__(names, client_addresses)
        self._config = names
        self._of_request, self._of_response = readable_headers(names)
        self._number = 0
        self._requests: dict[tuple[str, ...], HeaderSet | None] = {}
        self._responses: dict[tuple[str, ...], HeaderSet | None] = {}
        self._actors: dict[tuple[Any, ...], tuple[Actor, Account, tuple[str, ...]]] = {}
        self._user_agents: dict[str, str] = {}

    def record(self, capture: Capture) -> RecordedHeaders:
        # What is remembered is looked up right here: most of this stage's time would otherwise go into calls.
        sent, received = capture.request.headers, capture.response.headers
        request = self._requests.get(tuple(sent)) or self._header_set(sent, self._requests, self._of_request)
        response = self._responses.get(tuple(received)) or self._header_set(
            received, self._responses, self._of_response
        )
        if request is None or response is None:
            return super().record(capture)
        agent: Any = sent.get(request.user_agent)
        request_type = sent.get(request.content_type)
        response_type = received.get(response.content_type)
        values = response.actor_values(received)
        client_ip = capture.client_ip
        if self._client_addresses is not None:
            client_ip = self._client_addresses.of(client_ip, sent.get(request.client_address, ()))
        try:
            user_agent = self._user_agents.get(agent)
            # With the number of the set, because the same values under other names are another actor.
            actor = self._actors.get((response.number, client_ip, values))
        except TypeError:  # a list, which is not hashable: the header stands several times
            return super().record(capture)
        if isinstance(request_type, list) or isinstance(response_type, list):
            return super().record(capture)
        if actor is None:
            actor = self._new_actor(capture, response, client_ip)
        if user_agent is None and agent:
            user_agent = self._user_agent(agent)
        return RecordedHeaders(
            actor[0],
            actor[1],
            user_agent,
            _request_id(request.request_ids, sent) or _request_id(response.request_ids, received),
            headers_override_method(sent, request.overrides, capture.request.method),
            request_type,
            request.is_encoded,
            response_type,
            response.is_encoded,
            actor[2],
        )

    def _header_set(
        self, headers: Headers, known: dict[tuple[str, ...], HeaderSet | None], wanted: frozenset[str]
    ) -> HeaderSet | None:
        """Return what a message's header names mean; None where a wanted one stands twice, in two spellings."""
        written = tuple(headers)
        if written in known:
            return known[written]
        found = self._new_header_set(written, wanted)
        if sum(map(len, written)) <= _NAMES_CHARS_MAX:
            if len(known) >= _NAME_SETS_MAX:
                known.clear()
            known[written] = found
        return found

    def _new_header_set(self, written: tuple[str, ...], wanted: frozenset[str]) -> HeaderSet | None:
        names: dict[str, str] = {}
        for name in written:
            # As `HeaderFields` does: lowering other than ASCII could turn a foreign name into a wanted one.
            lowered = name.lower() if name.isascii() else ""
            if lowered in wanted:
                if lowered in names:
                    return None
                names[lowered] = name
        self._number += 1
        return HeaderSet(written, names, self._config, self._number)

    def _new_actor(
        self, capture: Capture, response: HeaderSet, client_ip: str | None
    ) -> tuple[Actor, Account, tuple[str, ...]]:
        """Return who acted, for which account, and what was refused; remember it if every value was kept."""
        headers = capture.response.headers
        of_response = self._reader.of_response(headers)
        kept = self._reader.kept(self._reader.of_request(capture.request.headers), of_response)
        refused = self._refused(of_response, kept, client_ip)
        found = _actor(kept, client_ip), Account(kept.account_id), refused
        kept_values = sum(value is not None for value in (*kept.of_actor, kept.account_id))
        written = response.actor_values(headers)
        # As they were written: spaces around them would be remembered with them.
        chars = sum(map(len, written)) if isinstance(written, tuple) else len(written or "")
        is_all_kept = kept_values == response.actor_names and (
            (client_ip is None) == (found[0].ip_address is None)
        )
        if is_all_kept and chars <= _VALUE_CHARS_MAX:
            if len(self._actors) >= _VALUES_MAX:
                self._actors.clear()
            self._actors[response.number, client_ip, written] = found
        return found

    def _user_agent(self, value: str) -> str | None:
        kept = kept_user_agent(value)
        if kept is not None and len(value) <= _VALUE_CHARS_MAX:
            if len(self._user_agents) >= _VALUES_MAX:
                self._user_agents.clear()
            self._user_agents[value] = kept
        return kept


def _request_id(names: tuple[str, ...], headers: Headers) -> str | None:
    """Return the first request id that is kept, of headers whose names stand once each."""
    for name in names:
        value = headers[name]
        if isinstance(value, list):
            value = value[0] if len(value) == 1 else ""
        kept = kept_request_id(value)
        if kept is not None:
            return kept
    return None
