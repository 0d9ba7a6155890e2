"""The first stage: which operation applies to a request.

The reference decodes the path and walks the trie of routes. The fast path walks an automaton over the text as it was
written, for URLs that need no decoding and whose host leads to one route table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from redactor.decode.headers import HeaderFields
from redactor.decode.url import Segments, Url, parse_host, split_path, split_url
from redactor.openapi.lenient_routes import lenient_match, lenient_match_of_any_method
from redactor.openapi.route_automaton import RouteState, start_state, state_after
from redactor.openapi.routes import Route, Routes
from redactor.pipeline.event_template import EventTemplate
from redactor.pipeline.resolved_operation import ResolvedOperation
from redactor.pipeline.stages import Attribution, RoutedRequest
from schemas.capture import Capture, CapturedRequest
from schemas.event import UnmatchedReason

_PLAIN: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,=:@/"
"""What `encode_segment` leaves as it is, and the slash."""
_ORIGINS_MAX: Final = 1_024
_ORIGIN_CHARS_MAX: Final = 256
_TEMPLATES_MAX: Final = (
    128  # of one operation, or of one path with all its methods; clients choose the status's spread
)
_SCHEME_CHARS_MAX: Final = len("https://")
_HOST: Final = frozenset({"host"})
_OVERRIDING_METHODS: Final = ("PUT", "PATCH", "DELETE")


class ReferenceRouting:
    """Finds the operation by the trie. `resolve` compiles the operations that routes lead to."""

    def __init__(self, routes: Routes, resolve: Callable[[tuple[Route, ...]], ResolvedOperation]) -> None:
        self._routes = routes
        self._resolve = resolve
        self._templates: dict[ResolvedOperation, dict[int, EventTemplate]] = {}

    def route(self, capture: Capture) -> RoutedRequest:
        request = capture.request
        url = split_url(request.url)
        segments = split_path(url.path)
        match = self._routes.match(url, _host(request), request.method, segments)
        if match.unmatched is not None:
            return RoutedRequest(None, (), url.path, False, url.query, match.unmatched, match.known_path)
        decoded = ["", *segments.decoded]
        template = self._template(match.routes, capture, decoded)
        return RoutedRequest(template, decoded, url.path, _is_plain(url.path, segments), url.query)

    def attribution(
        self, request: CapturedRequest, routed: RoutedRequest, reason: UnmatchedReason
    ) -> Attribution | None:
        """Return whose action a request is that is recorded as unmatched for `reason`; None where no reading finds it.

        Where the method is ambiguous, or the path has no operation of it, what all methods of the path agree on: a service
        may run any of them. HEAD is a GET, and OPTIONS is asked by browsers ahead of an action, and is none.
        """
        if routed.template is not None:
            return Attribution(routed.template.operation, routed.segments)
        url = split_url(request.url)
        tables = self._routes.possible_tables(url, _host(request))
        match = lenient_match(tables, url.path, request.method)
        if match is not None:
            return Attribution(self._resolve(match.routes), ["", *match.segments])
        is_by_method = reason is UnmatchedReason.NO_METHOD
        if is_by_method and request.method == "OPTIONS":
            return None
        if request.method == "HEAD":
            match = lenient_match(tables, url.path, "GET")
        match = match or lenient_match_of_any_method(tables, url.path)
        if match is None:
            return None
        return Attribution(self._resolve(match.routes), ["", *match.segments], is_altered=not is_by_method)

    def has_another_method(self, request: CapturedRequest) -> bool:
        """Whether the path of a POST has an operation that an override of its method can mean."""
        url, host = split_url(request.url), _host(request)
        segments = split_path(url.path)
        return any(
            self._routes.match(url, host, method, segments).unmatched is None
            for method in _OVERRIDING_METHODS
        )

    def known_path(self, request: CapturedRequest) -> str:
        """Return the longest literal prefix of the path that the route table has, in the table's own text."""
        url = split_url(request.url)
        return self._routes.known_path(url, _host(request), split_path(url.path))

    def _template(self, routes: tuple[Route, ...], capture: Capture, segments: list[str]) -> EventTemplate:
        operation = self._resolve(routes)
        templates = self._templates.setdefault(operation, {})
        template = templates.get(capture.response.status)
        if template is None:
            if len(templates) >= _TEMPLATES_MAX:
                templates.clear()
            template = templates[capture.response.status] = EventTemplate(operation, capture, segments)
        return template


def _host(request: CapturedRequest) -> str | None:
    """Return the header's host, empty where it cannot be read; None where there is none."""
    fields = HeaderFields(request.headers, _HOST)
    return parse_host(fields.once("host") or "") if fields.present("host") else None


def _is_plain(path: str, segments: Segments) -> bool:
    # An empty last segment is a slash that the configuration allows; it is not recorded.
    is_unescaped = path.isascii() and not path.encode().translate(None, _PLAIN)
    return is_unescaped and segments.decoded[-1:] != ("",)


class FastRouting(ReferenceRouting):
    """Finds the operation of a plainly written URL by the automaton."""

    def __init__(self, routes: Routes, resolve: Callable[[tuple[Route, ...]], ResolvedOperation]) -> None:
        super().__init__(routes, resolve)
        self._start_states: dict[int, RouteState] = {}
        self._origins: dict[str, RouteState | None] = {}

    def route(self, capture: Capture) -> RoutedRequest:
        request = capture.request
        url = request.url
        begin = 0 if url[:1] == "/" else url.find("/", _SCHEME_CHARS_MAX)
        origin = url[:begin]
        state = self._origins.get(origin) or self._start_state(origin)
        path, _, query = url[begin:].partition("?")
        # Bytes, because `str` has no way to delete characters by a table that is as fast.
        if begin < 0 or not path.isascii() or path.encode().translate(None, _PLAIN) or "#" in query:
            return super().route(capture)
        segments = path.split("/")
        state = state_after(state, segments)
        if state is not None:
            key = request.method, capture.response.status
            template = state.cache.get(key) or self._cached_template(state, capture, segments)
            if template is not None:
                return RoutedRequest(template, segments, path, True, query)
        return super().route(capture)

    def _start_state(self, origin: str) -> RouteState | None:
        """Return the state before the paths of an origin; None where it is unusual, or not one table serves it."""
        if origin in self._origins or len(origin) > _ORIGIN_CHARS_MAX:
            return None
        if len(self._origins) >= _ORIGINS_MAX:
            self._origins.clear()
        self._origins[origin] = found = self._new_start_state(origin)
        return found

    def _new_start_state(self, origin: str) -> RouteState | None:
        if origin:
            url: Url = split_url(origin + "/")
            is_plain = url.host is not None and url.path == "/" and not set("?#") & set(origin)
            table = self._routes.only_table(url.host) if is_plain else None
        else:
            # The host header decides where no host stands in the URL, but only if some document is bound to a host.
            table = None if self._routes.depend_on_host else self._routes.only_table(None)
        return None if table is None else self._start_states.setdefault(id(table), start_state(table))

    def _cached_template(
        self, state: RouteState, capture: Capture, segments: list[str]
    ) -> EventTemplate | None:
        """Return the template for a path's end, and keep it there; None where no operation has the method."""
        routes = state.routes_for(capture.request.method)
        if not routes:
            return None
        if len(state.cache) >= _TEMPLATES_MAX:
            state.cache.clear()
        template = self._template(routes, capture, segments)
        state.cache[capture.request.method, capture.response.status] = template
        return template
