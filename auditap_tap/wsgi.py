"""The WSGI middleware (PEP 3333), and the observation of one request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final
from urllib.parse import quote

from .capture import BodyCopy, Pair, RawHeaders, is_never_recorded
from .middleware import TapMiddleware
from .run import TapRun
from .sequence import DropCause

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], Any]]
WSGIApp = Callable[[Environ, StartResponse], Iterable[bytes]]

# Servers that keep the request target as the client wrote it: gunicorn and werkzeug; uWSGI and mod_wsgi.
_RAW_TARGETS: Final = ("RAW_URI", "REQUEST_URI")
_SAFE_IN_PATHS: Final = "/!$&'()*+,;=:@~"


class AuditTapWSGIMiddleware(TapMiddleware[WSGIApp]):
    """WSGI middleware that taps HTTP requests. `TapMiddleware` describes the settings.

    Each process is a run of the tap. It starts with the first request, or with `start`: call that in each worker, after the
    server has forked, so that heartbeats come before the first request.

    Servers join repeated request headers into one, so a header that stands twice looks like one with a comma. A body that the
    application did not read to its end is marked `not_read`. The response is complete once the server has taken all of it.
    """

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request, as PEP 3333 defines it."""
        exchange = self._begin(environ)
        if exchange is None:
            return self._app(environ, start_response)
        try:
            body = self._app(environ, exchange.start_response(start_response))
        except BaseException:
            exchange.end(complete=False)
            raise
        return exchange.observed(body)

    def _begin(self, environ: Environ) -> _Exchange | None:
        """Return what observes this request; None if it is not tapped."""
        try:
            if self._is_excluded(f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}"):
                return None
            return _Exchange(self._current_run(), environ)
        except Exception:  # noqa: BLE001  # the user's request goes on without the tap
            self._count_failed()
            return None


class _Exchange:
    """One request and its response. Whatever fails in here, the application does not notice."""

    def __init__(self, run: TapRun, environ: Environ) -> None:
        config = run.config
        self._run = run
        self._started_s = time.perf_counter()
        self._ended = False
        headers = config.request_headers.select(_request_headers(environ))
        copied = environ["REQUEST_METHOD"] not in config.methods_without_bodies
        self._pair = pair = Pair(
            _scope(environ),
            headers,
            BodyCopy(run.buffer, config.body_bytes_max, copied=copied),
            BodyCopy(run.buffer, config.body_bytes_max, copied=copied),
        )
        if is_never_recorded(headers):
            pair.request_body.discard()
        self._input = _Input(environ["wsgi.input"], pair.request_body, _content_length(environ))
        environ["wsgi.input"] = self._input
        # Last: once a number is assigned, the pair must be captured or dropped.
        pair.assign(*run.numbers.assign())

    def start_response(self, start_response: StartResponse) -> StartResponse:
        """Return the server's callable, wrapped."""

        def observing(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Callable[[bytes], Any]:
            write = start_response(status, headers, *exc_info)
            self._observe_start(status, headers)

            def observing_write(data: bytes) -> Any:
                self.observe_body(data)
                return write(data)

            return observing_write

        return observing

    def observed(self, body: Iterable[bytes]) -> Iterable[bytes]:
        """Return the response's body, which ends the exchange when it is closed."""
        # A server reads the length of a list of one part, to declare it.
        return _SizedBody(body, self) if hasattr(body, "__len__") else _Body(body, self)

    def observe_body(self, part: bytes) -> None:
        try:
            self._pair.response_body.append(part)
        except Exception:  # noqa: BLE001  # the user must not notice
            self._pair.response_body.discard()
            self._run.buffer.count_failed()

    def _observe_start(self, status: str, headers: list[tuple[str, str]]) -> None:
        pair = self._pair
        try:
            pair.status = int(status[:3])
            raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
            pair.response_headers = self._run.config.response_headers.select(raw)
            if is_never_recorded(pair.response_headers):
                pair.response_body.discard()
        except Exception:  # noqa: BLE001  # the user must not notice
            pair.response_body.discard()
            self._run.buffer.count_failed()

    def end(self, *, complete: bool) -> None:
        """Put the pair into the buffer; what does not fit is dropped, and its number accounted for."""
        if self._ended:
            return
        self._ended = True
        run, pair = self._run, self._pair
        try:
            pair.complete = complete
            pair.duration_ms = (time.perf_counter() - self._started_s) * 1000
            if pair.status is None:
                # The server responds for an application that did not.
                pair.status = 500
            if not self._input.was_read:
                pair.request_body.leave_unread()
            if not run.buffer.put(pair):
                run.numbers.drop((pair.seq,), DropCause.CLOSING if run.closed else DropCause.BUFFER_FULL)
        except Exception:  # noqa: BLE001  # the user must not notice
            run.buffer.count_failed()
            run.numbers.drop((pair.seq,), DropCause.FAILED)


class _Body:
    """A response's body on its way to the server."""

    def __init__(self, body: Iterable[bytes], exchange: _Exchange) -> None:
        self._body = body
        self._exchange = exchange
        self._parts: Iterator[bytes] | None = None
        self._complete = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._parts is None:
            self._parts = iter(self._body)
        try:
            part = next(self._parts)
        except StopIteration:
            self._complete = True
            raise
        self._exchange.observe_body(part)
        return part

    def close(self) -> None:
        """End the exchange. The server calls this for every response, also one that failed."""
        try:
            if hasattr(self._body, "close"):
                self._body.close()
        finally:
            self._exchange.end(complete=self._complete)


class _SizedBody(_Body):
    def __len__(self) -> int:
        return len(self._body)  # type: ignore[arg-type]  # made for what has a length


class _Input:
    """The request's body on its way to the application."""

    def __init__(self, source: Any, copy: BodyCopy, length: int | None) -> None:
        self._source = source
        self._copy = copy
        self._left = length
        """Bytes that are still to be read; None if that is not known."""
        self.was_read = length == 0

    def read(self, *size: int) -> bytes:
        return self._observe(self._source.read(*size), asked=size[0] if size else -1)

    def readline(self, *size: int) -> bytes:
        return self._observe(self._source.readline(*size), asked=1)

    def readlines(self, *hint: int) -> list[bytes]:
        lines: list[bytes] = self._source.readlines(*hint)
        for line in lines:
            self._observe(line, asked=1)
        if not any(hint):
            self.was_read = True
        return lines

    def __iter__(self) -> Iterator[bytes]:
        for line in self._source:
            yield self._observe(line, asked=1)
        self.was_read = True

    def __getattr__(self, name: str) -> Any:
        # Servers' inputs can do more than PEP 3333 asks for, and frameworks look whether they can.
        attribute = getattr(self._source, name)
        if name == "read1":
            return lambda *size: self._observe(attribute(*size), asked=size[0] if size else 1)
        if name in {"readinto", "readinto1"}:
            return lambda buffer: self._observe_buffer(attribute(buffer), buffer)
        return attribute

    def _observe_buffer(self, count: int | None, buffer: Any) -> int | None:
        view = memoryview(buffer).cast("B")
        self._observe(bytes(view[: count or 0]), asked=view.nbytes)
        return count

    def _observe(self, data: bytes, asked: int) -> bytes:
        """Copy what was read. It was the end where the declared length is reached, or nothing came of what was asked for."""
        self._copy.append(data)
        if self._left is not None:
            self._left -= len(data)
            self.was_read = self.was_read or self._left <= 0
        elif asked is None or asked < 0 or (not data and asked > 0):
            self.was_read = True
        return data


def _scope(environ: Environ) -> dict[str, Any]:
    """Return what a pair needs of a request, in the form of ASGI."""
    target = next((environ[name] for name in _RAW_TARGETS if environ.get(name, "").startswith("/")), None)
    if target is None:
        # WSGI decodes paths to Latin-1.
        path = f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}" or "/"
        target = quote(path.encode("latin-1"), safe=_SAFE_IN_PATHS)
    return {
        "method": environ["REQUEST_METHOD"],
        "scheme": environ.get("wsgi.url_scheme", "http"),
        "raw_path": target.partition("?")[0].encode("latin-1"),
        "path": "",
        "query_string": environ.get("QUERY_STRING", "").encode("latin-1"),
        "client": (environ.get("REMOTE_ADDR", ""), 0),
        "server": (environ.get("SERVER_NAME", ""), environ.get("SERVER_PORT")),
    }


def _request_headers(environ: Environ) -> RawHeaders:
    headers: RawHeaders = []
    for name, value in environ.items():
        # Some servers have these two under both names.
        if name.startswith("HTTP_") and name not in {"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"}:
            headers.append((name[5:].replace("_", "-").lower().encode("latin-1"), value.encode("latin-1")))
    for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if environ.get(name):
            headers.append((name.replace("_", "-").lower().encode(), environ[name].encode("latin-1")))
    return headers


def _content_length(environ: Environ) -> int | None:
    """Return the length of the request's body: 0 where there is none, None where only reading shows it."""
    declared = environ.get("CONTENT_LENGTH") or ""
    if declared.isascii() and declared.isdecimal():
        return int(declared)
    return None if "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower() else 0
