"""Reading headers quickly: what a message's header names mean is worked out once for each set of names.

Gateways send few different sets, and few people send most requests. What is remembered is bounded: names, and of
values only those that were kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any, Final

import msgspec

from redactor.config import HeaderNames
from redactor.headers import Known, header_names, kept_user_agent, overrides_method
from schemas.capture import Headers
from schemas.event import Actor

_SHAPES_MAX: Final = 1_024
_NAMES_CHARS_MAX: Final = 4_096  # longer sets of names are not remembered
_VALUES_MAX: Final = 8_192
_VALUE_CHARS_MAX: Final = 1_024

_AFTER_AGENT: Final = b'},"resource":{'

_encode = msgspec.json.Encoder().encode


class Shape:
    """What a set of header names means: under which name, as it was written, each wanted header stands."""

    __slots__ = ("actor", "actor_values", "content_type", "is_encoded", "number", "request_ids", "user_agent")

    def __init__(self, names: Mapping[str, str], config: HeaderNames, number: int) -> None:
        self.number = number
        self.content_type = names.get("content-type")
        self.is_encoded = "content-encoding" in names
        self.user_agent = names.get(config.user_agent)
        self.request_ids = tuple(names[name] for name in config.request_ids if name in names)
        asked = (
            *(config.actor_id, config.actor_email, config.actor_type, config.actor_context),
            *(config.actor_token_id, config.actor_token_name, config.account_id),
        )
        self.actor_values = sum(name in names for name in asked)
        present = [names[name] for name in dict.fromkeys(asked) if name in names]
        self.actor: Callable[[Headers], Any] = itemgetter(*present) if present else _nothing
        """All that tells who it was."""


def _nothing(_: Headers) -> None:
    return None


class FastHeaders:
    """The headers of messages in which no wanted one stands twice; of any other it says that it cannot tell."""

    def __init__(self, config: HeaderNames) -> None:
        self._config = config
        self._of_request, self._of_response = header_names(config)
        # What is remembered; these are looked up from outside, and only cleared, never replaced.
        self.requests: dict[tuple[str, ...], Shape | None] = {}
        self.responses: dict[tuple[str, ...], Shape | None] = {}
        self._shapes = 0
        self.actors: dict[tuple[Any, ...], tuple[bytes, str | None]] = {}
        self.user_agents: dict[str, bytes] = {"": _AFTER_AGENT}

    def request(self, headers: Headers) -> Shape | None:
        """Return what a request's header names mean; None where only the general way can tell."""
        key = tuple(headers)
        try:
            return self.requests[key]
        except KeyError:
            pass
        shape = None if overrides_method(headers) else self._shape(key, self._of_request)
        return self._remembered(self.requests, key, shape)

    def response(self, headers: Headers) -> Shape | None:
        """Return the same of a response."""
        key = tuple(headers)
        try:
            return self.responses[key]
        except KeyError:
            pass
        return self._remembered(self.responses, key, self._shape(key, self._of_response))

    def learn_actor(
        self, shape: Shape, headers: Headers, address: str | None, actor: Actor, known: Known
    ) -> tuple[bytes, str | None]:
        """Return an actor's JSON text with its name and what follows it, and the account in the headers.

        They are remembered if every value was kept.
        """
        found = b',"actor":' + _encode(actor) + b',"raw":{', known.account_id
        kept = sum(value is not None for value in (*known.of_actor, known.account_id))
        written = shape.actor(headers)
        # As they were written: spaces around them are remembered with them.
        chars = sum(map(len, written)) if isinstance(written, tuple) else len(written or "")
        if (
            chars <= _VALUE_CHARS_MAX
            and kept == shape.actor_values
            and (address is None) == (actor.ip_address is None)
        ):
            if len(self.actors) >= _VALUES_MAX:
                self.actors.clear()
            self.actors[shape.number, address, written] = found
        return found

    def user_agent(self, value: str) -> bytes:
        """Return a user agent's JSON text with its name, a comma before it, and what follows; only that where
        it is not kept.
        """
        known = self.user_agents.get(value)
        if known is not None:
            return known
        kept = kept_user_agent(value)
        if kept is None:
            return _AFTER_AGENT
        found = b',"user_agent":' + _encode(kept) + _AFTER_AGENT
        if len(value) <= _VALUE_CHARS_MAX:
            if len(self.user_agents) >= _VALUES_MAX:
                self.user_agents.clear()
                self.user_agents[""] = _AFTER_AGENT
            self.user_agents[value] = found
        return found

    def _shape(self, written: tuple[str, ...], wanted: frozenset[str]) -> Shape | None:
        names: dict[str, str] = {}
        for name in written:
            # As `Fields` does: lowering other than ASCII could turn a foreign name into a wanted one.
            known = name.lower() if name.isascii() else ""
            if known in wanted:
                if known in names:
                    return None
                names[known] = name
        self._shapes += 1
        return Shape(names, self._config, self._shapes)

    def _remembered(
        self, shapes: dict[tuple[str, ...], Shape | None], key: tuple[str, ...], shape: Shape | None
    ) -> Shape | None:
        if sum(map(len, key)) <= _NAMES_CHARS_MAX:
            if len(shapes) >= _SHAPES_MAX:
                shapes.clear()
            shapes[key] = shape
        return shape
