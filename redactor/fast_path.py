"""The fast way from a pair to its event, beside the general one in `redact`, which stays the definition.

It takes pairs that are written plainly and gives the same bytes for them, or nothing: then the general way is taken.
What is known before any traffic is text already; what a pair decides is asked of the same functions that the general
way asks, or of readings that tests hold to agree with it. Bodies are read by `typed_bodies`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from redactor.assemble import METHODS, actor_of, never_read, tap_of
from redactor.bodies import Content, Message, redact_body
from redactor.compiled import Media
from redactor.config import RedactionConfig
from redactor.derive import owner_id, pointed_at, resource_id
from redactor.fast_headers import FastHeaders, Shape
from redactor.fast_routes import State, automaton, walk
from redactor.governing import Governing
from redactor.headers import Fields, HeaderReader, content_type, is_read_as_utf_8, kept_request_id
from redactor.media_types import Format, format_of, is_form
from redactor.plan import DROPPED, encode_json
from redactor.routes import Route, Routes
from redactor.typed_bodies import BodyTypes, KeptText, Outcome, TypedBody
from redactor.url import asks_for_method, split_query, split_url
from schemas.capture import Capture, Headers
from schemas.event import Action, BodyReason, BodyReceipt, Receipt
from schemas.identity import id_ms, rfc3339_ms

_PLAIN: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,=:@/"
"""What is recorded of a path as it stands, and splits nothing but segments."""
_ORIGINS_MAX: Final = 1_024
_ORIGIN_CHARS_MAX: Final = 256
_RECIPES_MAX: Final = 128  # of one path and all its methods and statuses
_CONTENT_TYPES_MAX: Final = 16
_RECEIPTS_MAX: Final = 8_192
_SECONDS_MAX: Final = 4_096
_YEAR_10000_S: Final = 253_402_300_800
_ID_CHARS_MAX: Final = 512
_OWNERS_MAX: Final = 8_192
_SCHEME_CHARS_MAX: Final = len("https://")
_CONTENT_TYPE: Final = frozenset({"content-type"})

_encode = msgspec.json.Encoder().encode

_MILLISECONDS: Final = tuple(f'.{ms:03d}Z"'.encode() for ms in range(1000))
_ABSENT: Final[KeptText] = (None, None, None)
_NEVER_READ: Final[KeptText] = (None, BodyReason.GET.value, None)


_Where = tuple[bytes, bytes | None, bytes | None, str | None]


class _Reader:
    """How bodies of one content type are read: by a type or, where there is none or it cannot tell, generally."""

    __slots__ = ("dropped", "is_form", "may_ask_for_method", "media", "typed")

    def __init__(
        self, media: Media | BodyReason, typed: TypedBody | None, *, is_form: bool, may_ask_for_method: bool
    ) -> None:
        self.media = media
        self.typed = typed
        self.is_form = is_form
        self.may_ask_for_method = may_ask_for_method
        """Whether a field of it may say that another method is meant; which one says so, the general way tells."""
        self.dropped: KeptText | None = (None, media.value, None) if isinstance(media, BodyReason) else None
        """What is said of a body that is not read at all."""


class _Side:
    """The bodies of one direction, for one recipe."""

    def __init__(
        self,
        select: Callable[[str | None], Media | BodyReason],
        *,
        is_request: bool,
        is_read: bool,
        is_post: bool = False,
    ) -> None:
        self.is_request = is_request
        self.is_post = is_post
        self.is_read = is_read
        self._select = select
        self.readers: dict[str | None, _Reader] = {}
        """By the content type as it was written; None: the message does not say."""

    def learned(self, written: str | None, types: BodyTypes) -> _Reader:
        """Return how bodies of a content type are read, and remember it."""
        fields = Fields({} if written is None else {"content-type": written}, _CONTENT_TYPE)
        kind = content_type(fields)
        media = self._select(kind.essence)
        form = Format.JSON if kind.essence is None else format_of(kind.essence)
        typed = None
        if isinstance(media, Media) and form is Format.JSON and is_read_as_utf_8(kind):
            typed = types.body(media.plan, media.envelope)
        may_ask = self.is_post and form not in (None, Format.LINES)
        reader = _Reader(media, typed, is_form=is_form(kind.essence or ""), may_ask_for_method=may_ask)
        if len(self.readers) < _CONTENT_TYPES_MAX:
            self.readers[written] = reader
        return reader


class _Recipe:
    """All that is known of the events of an operation, a method and a status: the text around what pairs decide."""

    def __init__(self, governing: Governing, capture: Capture, segments: list[str]) -> None:
        method, status = capture.request.method, capture.response.status
        self.governing = governing
        self.strict = strict = status >= 400
        never = never_read(capture)
        keeps_get = method == "GET" and governing.keeps_get_response and status != 101
        self.request = _Side(
            lambda essence: governing.request(essence, strict=strict),
            is_request=True,
            is_read=not never,
            is_post=method == "POST",
        )
        self.response = _Side(
            lambda essence: governing.response(status, essence),
            is_request=False,
            is_read=not never or keeps_get,
        )
        texts = governing.path_texts(strict=strict)
        self.is_path_known = texts is not None
        self.replaced = tuple((at, text) for at, text in enumerate(texts or ()) if text is not None)
        self.records_query = governing.records_query(strict=strict)
        self.base_length = governing.base_length
        # Before the base path stands what is before the path's first slash: nothing. Of use for literal ones alone.
        self.base_chars = sum(len(each) + 1 for each in segments[1 : self.base_length + 1])
        self.is_path_rewritten = texts is None or bool(self.replaced) or not governing.has_literal_base
        # Counted with the base path and the nothing before it; what is not recorded names nothing.
        account, zone, resource = (
            None if at is None or texts is None or texts[at] is not None else at + self.base_length + 1
            for at in governing.positions
        )
        self.account, self.zone, self.resource = account, zone, resource
        self.reads_id = (
            governing.pointer is not None
            and not governing.id_is_overridden
            and governing.facts.action_type == "create"
        )
        self._lay_out(method, status)

    def _lay_out(self, method: str, status: int) -> None:
        facts = self.governing.facts
        result = "failure" if self.strict else "success"
        action = _encode(
            Action(result=result, time="", type=facts.action_type, description=facts.description)
        )
        before, _, after = action.partition(b'"time":""')
        self.before_time = b',"action":' + before + b'"time":"'
        self.after_time = after + b',"account":'
        self.raw = f'"method":"{method}","status_code":{status},"uri":'.encode()
        self.product = b"" if facts.product is None else b'"product":' + _encode(facts.product) + b","
        scope = {"scope": facts.scope} if facts.scope is not None else {}
        self.after_bodies = _encode({**scope, "type": facts.resource_type})[1:] + b',"zone":'

    def receipt(self, request: Outcome, response: Outcome) -> bytes:
        """Return the receipt's JSON text, its name before it and the tap's behind."""
        governing = self.governing
        receipt = Receipt(
            document=governing.digest,
            operation=governing.id,
            request=_receipt(request),
            response=_receipt(response),
        )
        return b',"receipt":' + _encode(receipt) + b',"tap":'


def _receipt(outcome: Outcome) -> BodyReceipt:
    if isinstance(outcome, str):
        return BodyReceipt(reason=BodyReason(outcome))
    return BodyReceipt(kept=outcome)


def _has_recipe(governing: Governing, method: str) -> bool:
    """Tell whether events can be laid out beforehand; not where the id is looked for in a body as a whole."""
    if governing.is_excluded or method not in METHODS or governing.facts.resource_type is None:
        return False
    return not (governing.id_is_overridden and governing.pointer is not None)


class FastPath:
    """Redacts plain pairs. `governed_by` compiles the operations that routes lead to, as the general way does."""

    def __init__(
        self,
        config: RedactionConfig,
        routes: Routes,
        headers: HeaderReader,
        governed_by: Callable[[tuple[Route, ...]], Governing],
    ) -> None:
        self._limits = config.limits
        self._uri_bytes_max = config.limits.uri_bytes_max
        self._routes = routes
        self._reader = headers
        self._headers = FastHeaders(config.headers)
        self._asked, self._answered = self._headers.requests, self._headers.responses
        self._agents, self._actors = self._headers.user_agents, self._headers.actors
        self._governed_by = governed_by
        self._types = BodyTypes(config.limits.depth_max, config.limits.body_bytes_max)
        self._origins: dict[str, State | None] = {}
        self._tables: dict[int, State] = {}
        self._seconds: dict[int, bytes] = {}
        self._owners: dict[str, bytes] = {}
        self._receipts: dict[tuple[_Recipe, Outcome, Outcome], bytes] = {}

    def event(self, capture: Capture, event_id: str) -> bytes | None:  # noqa: PLR0911  each doubt ends it
        """Return the audit event's JSON text; None where the general way must be taken.

        Written in few pieces, because most of a pair's time would otherwise go into calls: what is remembered is
        looked up here, and what is not is asked of the others.
        """
        request, response = capture.request, capture.response
        sent, received = request.headers, response.headers
        asked = self._asked.get(tuple(sent)) or self._headers.request(sent)
        answered = self._answered.get(tuple(received)) or self._headers.response(received)
        if asked is None or answered is None:
            return None

        url = request.url
        begin = 0 if url[:1] == "/" else url.find("/", _SCHEME_CHARS_MAX)
        origin = url[:begin]
        state = self._origins.get(origin) or self._served(origin)
        text, mark, query = url[begin:].partition("?")
        path = text.encode() if text.isascii() else b"%"
        if begin < 0 or path.translate(None, _PLAIN):
            return None
        if mark and ("#" in query or asks_for_method(query)):
            return None
        segments = text.split("/")
        state = walk(state, segments)
        if state is None:
            return None
        recipe = state.memory.get((request.method, response.status)) or self._recipe(state, segments, capture)
        if recipe is None:
            return None

        if not recipe.is_path_rewritten and not (mark and recipe.records_query):
            where = self._as_it_stands(path, segments, recipe)
        else:
            where = self._rewritten(segments, query, recipe)
        asking: KeptText | None = _NEVER_READ
        answer: KeptText | None = _NEVER_READ
        if recipe.request.is_read:
            asking = self._body(request, asked, recipe.request)
        if recipe.response.is_read:
            answer = self._body(response, answered, recipe.response)
        if where is None or asking is None or answer is None:
            return None
        return self._text(capture, event_id, recipe, asked, answered, where, asking, answer)

    def _text(  # noqa: PLR0917  (as above)
        self,
        capture: Capture,
        event_id: str,
        recipe: _Recipe,
        asked: Shape,
        answered: Shape,
        where: _Where,
        asking: KeptText,
        answer: KeptText,
    ) -> bytes | None:
        sent, received = capture.request.headers, capture.response.headers
        agent: Any = "" if asked.user_agent is None else sent[asked.user_agent]
        try:
            agent_text = self._agents.get(agent)
            who = self._actors.get((answered.number, capture.client_ip, answered.actor(received)))
        except TypeError:
            return None  # one of these headers stands several times
        if agent_text is None:
            agent_text = self._headers.user_agent(agent)
        actor, account_in_header = who or self._actor(capture, answered)
        at_ms = id_ms(event_id)
        second = self._seconds.get(at_ms // 1000) or self._second(at_ms // 1000)
        if second is None:
            return None
        uri, account, zone, resource = where
        if account is None and account_in_header is not None:
            account = b'{"id":' + _encode(account_in_header) + b"}"
        if resource is None and recipe.reads_id:
            resource = resource_id(answer[2])
        return b"".join(
            (
                b'{"id":',
                _encode(event_id),
                recipe.before_time,
                second,
                _MILLISECONDS[at_ms % 1000],
                recipe.after_time,
                account or b"{}",
                actor,
                (_request_id(asked, sent) if asked.request_ids else b"") or _request_id(answered, received),
                recipe.raw,
                uri,
                agent_text,
                b"" if resource is None else b'"id":' + _encode(resource) + b",",
                recipe.product,
                b"" if asking[0] is None else b'"request":' + asking[0] + b",",
                b"" if answer[0] is None else b'"response":' + answer[0] + b",",
                recipe.after_bodies,
                zone or b"{}",
                self._receipts.get((recipe, asking[1], answer[1]))
                or self._receipt(recipe, asking[1], answer[1]),
                _tap(capture),
            )
        )

    def _served(self, origin: str) -> State | None:
        """Return where paths behind an origin begin; None where it is not plain, or not one table serves it."""
        if origin in self._origins or len(origin) > _ORIGIN_CHARS_MAX:
            return None
        if len(self._origins) >= _ORIGINS_MAX:
            self._origins.clear()
        self._origins[origin] = found = self._beginning(origin)
        return found

    def _beginning(self, origin: str) -> State | None:
        if origin:
            url = split_url(origin + "/")
            is_plain = url.host is not None and url.path == "/" and not set("?#") & set(origin)
            table = self._routes.only_table(url.host) if is_plain else None
        else:
            # The host is then the header's, which counts only where some document is bound to one.
            table = None if self._routes.depend_on_host else self._routes.only_table(None)
        return None if table is None else self._tables.setdefault(id(table), automaton(table))

    def _recipe(self, state: State, segments: list[str], capture: Capture) -> _Recipe | None:
        method, status = capture.request.method, capture.response.status
        routes = state.governing(method)
        if not routes or (method, status) in state.memory:
            return None
        governing = self._governed_by(routes)
        recipe = _Recipe(governing, capture, segments) if _has_recipe(governing, method) else None
        if len(state.memory) >= _RECIPES_MAX:
            state.memory.clear()
        state.memory[method, status] = recipe
        return recipe

    def _body(self, message: Message, shape: Shape, side: _Side) -> KeptText | None:
        """Return what is kept of a body; None where the pair as a whole must go the general way."""
        text = message.body
        if not (text or message.body_base64 or message.truncated):
            return _ABSENT
        written = None if shape.content_type is None else message.headers[shape.content_type]
        if isinstance(written, list):
            return None
        reader = side.readers.get(written) or side.learned(written, self._types)
        if reader.may_ask_for_method and (
            reader.is_form or shape.is_encoded or message.body_base64 is not None or _names_method(text or "")
        ):
            return None
        if reader.dropped is not None:
            return reader.dropped
        if (
            reader.typed is not None
            and text is not None
            and not (shape.is_encoded or message.truncated)
            and message.body_base64 is None
            and (side.is_request or message.complete)  # type: ignore[union-attr]
        ):
            found = reader.typed.read(text)
            if found is not None:
                return found
        return self._read_generally(message, reader, side)

    def _read_generally(self, message: Message, reader: _Reader, side: _Side) -> KeptText:
        of = self._reader.of_request if side.is_request else self._reader.of_response
        content = Content(message, of(message.headers), self._limits.body_bytes_max)
        body = redact_body(content, reader.media, self._limits)
        outcome = body.receipt.kept if body.receipt.reason is None else body.receipt.reason.value
        if body.recorded is DROPPED:
            return None, outcome, None
        found = pointed_at(body.recorded, ("id",))
        return encode_json(body.recorded), outcome, None if found is DROPPED else found

    def _as_it_stands(self, path: bytes, segments: list[str], recipe: _Recipe) -> _Where | None:
        """Return where the pair went, of a path that is recorded as it stands; None where that is too long."""
        found = None if recipe.resource is None else segments[recipe.resource]
        if len(path) > self._uri_bytes_max or (found is not None and len(found) > _ID_CHARS_MAX):
            return None
        account = zone = None
        if recipe.account is not None:
            account = self._owners.get(segments[recipe.account]) or self._owner(segments[recipe.account])
        if recipe.zone is not None:
            zone = self._owners.get(segments[recipe.zone]) or self._owner(segments[recipe.zone])
        return b'"' + path[recipe.base_chars :] + b'"', account, zone, found

    def _rewritten(self, segments: list[str], query: str, recipe: _Recipe) -> _Where | None:
        """Return the same where texts of the template stand in the path, or a query may be recorded."""
        if not recipe.is_path_known:
            return self._where_generally(segments, query, recipe)
        recorded = segments[recipe.base_length + 1 :]
        for index, text in recipe.replaced:
            recorded[index] = text
        uri = "/" + "/".join(recorded)
        where = self._as_it_stands(uri.encode(), segments, recipe)
        if where is None:
            return None
        if query and recipe.records_query:
            uri = recipe.governing.with_query(uri, split_query(query), strict=recipe.strict)
        return _encode(uri), *where[1:]

    def _where_generally(self, segments: list[str], query: str, recipe: _Recipe) -> _Where:
        governing = recipe.governing
        path = governing.path(segments[1:], strict=recipe.strict)
        uri = governing.uri(path, split_query(query), strict=recipe.strict)
        account, zone = governing.account_id(path), governing.zone_id(path)
        return (
            _encode(uri),
            None if account is None else self._owner(account),
            None if zone is None else self._owner(zone),
            governing.resource_id(path),
        )

    def _owner(self, value: str) -> bytes | None:
        """Return an account or zone as JSON text, None where the value is no id."""
        known = self._owners.get(value)
        if known is not None:
            return known
        kept = owner_id(value)
        if kept is None:
            return None
        if len(self._owners) >= _OWNERS_MAX:
            self._owners.clear()
        known = self._owners[value] = b'{"id":' + _encode(kept) + b"}"
        return known

    def _receipt(self, recipe: _Recipe, request: Outcome, response: Outcome) -> bytes:
        """Return the text of a receipt, and remember it. Counts are as many as people send: so all recipes share."""
        if len(self._receipts) >= _RECEIPTS_MAX:
            self._receipts.clear()
        found = self._receipts[recipe, request, response] = recipe.receipt(request, response)
        return found

    def _second(self, second: int) -> bytes | None:
        """Return a Unix time as it is written, without its end; None for one beyond what calendars write."""
        if second >= _YEAR_10000_S:
            return None
        if len(self._seconds) >= _SECONDS_MAX:
            self._seconds.clear()
        text = self._seconds[second] = rfc3339_ms(second * 1000)[:-5].encode()
        return text

    def _actor(self, capture: Capture, answered: Shape) -> tuple[bytes, str | None]:
        headers = capture.response.headers
        request = self._reader.of_request(capture.request.headers)
        known = self._reader.known(request, self._reader.of_response(headers))
        return self._headers.learn_actor(
            answered, headers, capture.client_ip, actor_of(capture, known), known
        )


def _names_method(text: str) -> bool:
    """Tell whether a JSON text may hold a field that asks for another method: for sure not, or perhaps."""
    return "\0" in text or "\\u" in text or "method" in text.lower()


def _request_id(shape: Shape, headers: Headers) -> bytes:
    """Return the request's id with its name, a comma behind it; empty where there is none to keep."""
    for name in shape.request_ids:
        value = headers[name]
        if isinstance(value, list):
            value = value[0] if len(value) == 1 else ""
        kept = kept_request_id(value)
        if kept is not None:
            return b'"cf_ray_id":"' + kept.encode() + b'",'
    return b""


def _tap(capture: Capture) -> bytes:
    """Return the tap's text and the event's end."""
    tap = capture.tap
    if tap is None or tap.epoch is None or tap.seq is None:
        return _encode(tap_of(capture)) + b"}"
    return _encode(tap) + b"}"
