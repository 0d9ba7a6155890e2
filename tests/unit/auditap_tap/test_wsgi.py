"""The WSGI middleware, called as a server calls it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from auditap_tap import AuditTapWSGIMiddleware, wsgi
from schemas.capture import Capture, body_bytes
from tests.unit.auditap_tap.tapped import CANARY, Collector, eventually

BODY = b'{"name": "bolt"}'


@pytest.fixture
async def wrap(collector: Collector, tmp_path: Path) -> AsyncIterator[Callable[..., AuditTapWSGIMiddleware]]:
    taps: list[AuditTapWSGIMiddleware] = []

    def wrapped(app: Any, **settings: Any) -> AuditTapWSGIMiddleware:
        given = {"tap_id": "t-1", "state_dir": tmp_path, "linger_ms": 1, **settings}
        taps.append(AuditTapWSGIMiddleware(app, collector=f"unix:{collector.path}", **given))
        return taps[-1]

    yield wrapped
    for tap in taps:
        # In a thread: the collector answers in this one.
        await asyncio.to_thread(tap.close)


def environ(body: bytes = BODY, **changes: Any) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/orders/\xc3\xa9",
        "QUERY_STRING": "a=1",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "REMOTE_ADDR": "203.0.113.9",
        "HTTP_HOST": "api.example.com",
        "HTTP_AUTHORIZATION": f"Bearer {CANARY}",
        "HTTP_X_REQUEST_ID": "r-1",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.url_scheme": "https",
        "wsgi.input": io.BytesIO(body),
        **changes,
    }


def answering(read: Callable[[Any], Any], parts: Iterable[bytes] = (b'{"id": 1}',)) -> Any:
    def app(given: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        read(given["wsgi.input"])
        start_response("201 Created", [("Content-Type", "application/json"), ("X-Actor-Id", "bo")])
        return parts

    return app


def serve(app: Any, given: dict[str, Any], *, parts_taken: int | None = None) -> bytes:
    """What a server does; it stops after `parts_taken` parts where the client leaves."""
    started: list[Any] = []
    written: list[bytes] = []

    def start_response(*arguments: Any) -> Any:
        started.append(arguments)
        return written.append

    body = app(given, start_response)
    try:
        for number, part in enumerate(body):
            if number == parts_taken:
                break
            written.append(part)
    finally:
        if hasattr(body, "close"):
            body.close()
    return b"".join(written)


async def captured(collector: Collector) -> Capture:
    await eventually(lambda: len(collector.captures) == 1)
    return collector.captures[0]


@pytest.mark.parametrize(
    "read",
    [
        lambda given: given.read(),
        lambda given: given.read(len(BODY)),
        lambda given: [given.read(5) for _ in range(4)],
        lambda given: given.readline(),
        lambda given: given.readlines(),
        list,
        lambda given: given.read1(100),
        lambda given: given.readinto(bytearray(100)),
    ],
    ids=["all", "its length", "in parts", "a line", "lines", "iterated", "read1", "readinto"],
)
async def test_however_the_body_is_read_it_is_copied(wrap: Any, collector: Collector, read: Any) -> None:
    assert serve(wrap(answering(read)), environ()) == b'{"id": 1}'
    capture = await captured(collector)
    assert body_bytes(capture.request) == BODY
    assert not capture.request.not_read
    assert capture.request.url == "https://api.example.com/orders/%C3%A9?a=1"
    assert capture.request.headers == {
        "host": "api.example.com",
        "x-request-id": "r-1",
        "content-type": "application/json",
    }
    assert capture.client_ip == "203.0.113.9"
    assert (capture.response.status, capture.response.complete) == (201, True)
    assert body_bytes(capture.response) == b'{"id": 1}'
    assert capture.response.headers["x-actor-id"] == "bo"


async def test_the_target_is_as_the_client_wrote_it_where_the_server_says_so(
    wrap: Any, collector: Collector
) -> None:
    serve(
        wrap(answering(lambda given: given.read())),
        environ(RAW_URI="/orders%2F7/x?a=1", PATH_INFO="/orders/7/x"),
    )
    assert (await captured(collector)).request.url == "https://api.example.com/orders%2F7/x?a=1"


async def test_a_body_that_was_left_unread_is_marked(wrap: Any, collector: Collector) -> None:
    serve(wrap(answering(lambda given: given.read(3))), environ())
    capture = await captured(collector)
    assert capture.request.not_read
    assert body_bytes(capture.request) is None


async def test_a_body_without_a_length_was_read_once_its_end_was_seen(
    wrap: Any, collector: Collector
) -> None:
    given = environ(HTTP_TRANSFER_ENCODING="chunked")
    del given["CONTENT_LENGTH"]
    serve(wrap(answering(lambda body: [body.read(8) for _ in range(3)])), given)
    assert body_bytes((await captured(collector)).request) == BODY


async def test_a_client_that_leaves_makes_the_response_incomplete(wrap: Any, collector: Collector) -> None:
    serve(wrap(answering(lambda given: given.read(), iter([b"a", b"b", b"c"]))), environ(), parts_taken=1)
    assert not (await captured(collector)).response.complete


async def test_an_application_that_raises_is_captured_and_its_error_goes_on(
    wrap: Any, collector: Collector
) -> None:
    def raising(_given: dict[str, Any], _start: Any) -> Iterable[bytes]:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        serve(wrap(raising), environ())
    capture = await captured(collector)
    assert (capture.response.status, capture.response.complete) == (500, False)


async def test_what_is_written_by_the_old_callable_is_copied(wrap: Any, collector: Collector) -> None:
    def writing(given: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        given["wsgi.input"].read()
        start_response("200 OK", [("Content-Type", "application/json")])(b'{"id":')
        return [b" 1}"]

    assert serve(wrap(writing), environ()) == b'{"id": 1}'
    assert body_bytes((await captured(collector)).response) == b'{"id": 1}'


async def test_a_list_keeps_its_length_for_the_server(wrap: Any, collector: Collector) -> None:
    body = wrap(answering(lambda given: given.read(), [b"{}"]))(environ(), lambda *_: None)
    assert len(body) == 1
    body.close()


async def test_paths_below_an_excluded_one_are_not_tapped(wrap: Any, collector: Collector) -> None:
    tap = wrap(answering(lambda given: given.read()), exclude_paths=["/orders"])
    assert serve(tap, environ()) == b'{"id": 1}'
    assert tap.stats.captured == 0


async def test_a_tap_that_fails_is_not_noticed(
    wrap: Any, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wsgi, "_scope", lambda _: 1 / 0)
    tap = wrap(answering(lambda given: given.read()))
    assert serve(tap, environ()) == b'{"id": 1}'
    assert tap.stats.failed == 1
