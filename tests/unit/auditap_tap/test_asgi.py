from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from auditap_tap import (
    AuditTapMiddleware,
    TapStats,
    asgi,
    capture,
    encoding,
    exchange,
    middleware,
    sender,
)
from auditap_tap.buffer import PairBuffer
from auditap_tap.capture import BodyCopy, HeaderSelection
from auditap_tap.client import CollectorClient
from auditap_tap.exchange import Exchange, Message, Receive, Scope, Send
from tests.unit.auditap_tap.apps import END, START, call, echo, one_route, sends
from tests.unit.auditap_tap.tapped import CANARY, Collector, Wrap, client_of, eventually, listening


async def test_websockets_pass_through_and_are_not_captured(collector: Collector, wrap: Wrap) -> None:
    passed: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append((scope, receive, send))

    async def receive() -> Message:
        return {}

    async def send(message: Message) -> None:
        pass

    tap = wrap(app)
    scope = {"type": "websocket", "path": "/"}
    await tap(scope, receive, send)
    assert passed == [(scope, receive, send)]
    assert tap.stats == TapStats()


async def test_excluded_paths_are_not_captured(collector: Collector, wrap: Wrap) -> None:
    tap = wrap(one_route(echo), exclude_paths=["/healthz", "/static/"])
    async with client_of(tap) as client:
        for path in ("/healthz", "/healthz/deep", "/static/a.js", "/healthzz", "/", "/static"):
            assert (await client.get(path)).status_code == 200
        await eventually(lambda: len(collector.captures) == 2)
    assert [httpx.URL(capture.request.url).path for capture in collector.captures] == ["/healthzz", "/"]


@pytest.mark.parametrize(
    "path",
    [
        "/healthz/../orders",
        "/healthz/..",
        "/healthz/./a",
        "/healthz/%2e%2E/orders",
        "/healthz/a%2f..%2forders",
        "/healthz//orders",
        "/healthz\\..\\orders",
        "/healthz/..;v=1/orders",
        "/healthz/%252e%252e/orders",
        "/healthz/.. /orders",
    ],
)
async def test_a_path_that_may_be_read_as_another_one_is_not_excluded(
    collector: Collector, wrap: Wrap, path: str
) -> None:
    tap = wrap(sends(START, END), exclude_paths=["/healthz"])
    # Some servers decode the path once, some do not; the last one is excluded.
    for given in (path, unquote(path), "/healthz/v1.2/a..b"):
        await call(tap, {"path": given, "raw_path": None})
    await eventually(lambda: len(collector.captures) == 2)
    assert tap.stats.captured == 2


async def test_shutdown_of_the_application_sends_what_is_left(collector: Collector, wrap: Wrap) -> None:
    tap = wrap(one_route(echo), linger_ms=60_000, close_ms_max=60_000)
    async with client_of(tap) as client:
        await client.get("/")
        assert collector.captures == []
    assert len(collector.captures) == 1
    assert tap.stats == TapStats(captured=1, accepted=1)


async def test_lifespan_reaches_the_application_as_the_server_sends_it(
    collector: Collector, wrap: Wrap
) -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        for _ in range(2):
            message = await receive()
            seen.append(message)
            await send({"type": f"{message['type']}.complete", "for": message})

    tap = wrap(app)
    scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    before = dict(scope)
    incoming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    messages = iter(incoming)
    sent: list[Message] = []

    async def receive() -> Message:
        return next(messages)

    async def send(message: Message) -> None:
        assert tap._run is not None
        assert tap._run.closed == (message["type"] == "lifespan.shutdown.complete")
        sent.append(message)

    await tap(scope, receive, send)
    assert seen == [scope, *incoming]
    assert scope == before
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


async def test_an_application_that_fails_to_start_ends_the_tap(collector: Collector, wrap: Wrap) -> None:
    tap = wrap(sends({"type": "lifespan.startup.failed"}))
    await call(tap, {"type": "lifespan"})
    assert tap._run is not None
    assert tap._run.closed


async def test_shutdown_with_a_hung_collector_ends_within_the_bound(
    socket_dir: Path, wrap: Wrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    posted: list[int] = []
    posted_before_the_end: list[int] = []
    post, begin = CollectorClient.post, sender.Shutdown.begin

    def counting(self: Any, path: str, body: bytes, dropped: int = 0) -> Any:
        posted.append(len(body))
        return post(self, path, body, dropped)

    def noting(self: sender.Shutdown, grace_s: float) -> None:
        posted_before_the_end.append(len(posted))
        begin(self, grace_s)

    monkeypatch.setattr(CollectorClient, "post", counting)
    monkeypatch.setattr(sender.Shutdown, "begin", noting)
    with listening(socket_dir / "collector.sock"):
        tap = wrap(one_route(echo), close_ms_max=20, timeout_ms=100, batch_pairs_max=1)
        async with client_of(tap) as client:
            for _ in range(20):
                await client.get("/")
        await eventually(lambda: tap.stats.dropped == 20)
    # Once the time is up, the rest is dropped together: not each batch after a time limit of its own.
    assert len(posted) - posted_before_the_end[0] < 10


@contextmanager
def failing(owner: Any, name: str) -> Iterator[None]:
    """Make every call of a function of the tap raise an error that quotes traffic."""

    def fails(*_: Any, **__: Any) -> Any:
        raise ValueError(CANARY)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, fails)
        yield


@pytest.mark.parametrize(
    ("module", "broken"),
    [
        (asgi, "Exchange"),
        (exchange, "Pair"),
        (middleware, "TapRun"),
        (capture, "encode_pair"),
        (exchange, "is_never_recorded"),
        (encoding, "_authority"),
    ],
)
async def test_a_failure_of_the_tap_itself_is_swallowed_and_counted(
    collector: Collector, wrap: Wrap, module: Any, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    with failing(module, broken):
        tap = wrap(one_route(echo))
        async with client_of(tap) as client:
            for _ in range(3):
                assert (await client.post("/", content=CANARY.encode())).text == CANARY
            await eventually(lambda: tap.stats.failed >= 3)
    assert collector.captures == []
    assert CANARY not in caplog.text


@pytest.mark.parametrize(
    ("owner", "method"),
    [
        (PairBuffer, "put"),
        (PairBuffer, "reserve"),
        (BodyCopy, "append"),
        (HeaderSelection, "select"),
        (Exchange, "_add_to_response"),
    ],
)
async def test_a_failure_inside_a_request_is_swallowed_and_counted(
    collector: Collector, wrap: Wrap, owner: type, method: str
) -> None:
    with failing(owner, method):
        tap = wrap(one_route(echo))
        async with client_of(tap) as client:
            assert (await client.post("/", content=CANARY.encode())).text == CANARY
            assert tap.stats.failed >= 1


def test_a_forked_process_begins_a_run_of_its_own() -> None:
    tap = AuditTapMiddleware(
        sends(START, END), collector="unix:/nowhere", tap_id="t-1", close_ms_max=1, state_dir=None
    )
    first = tap._current_run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        second = tap._current_run()
        assert second is not first
        assert second.buffer is not first.buffer
        assert tap._current_run() is second
        tap.close()
    first.close()


def test_nothing_runs_before_the_server_starts() -> None:
    before = set(threading.enumerate())
    AuditTapMiddleware(sends(), collector="unix:/nowhere", tap_id="t-1")
    # Others may end meanwhile.
    assert set(threading.enumerate()) <= before


def test_a_mesh_may_encrypt_in_place_of_the_tap() -> None:
    AuditTapMiddleware(
        sends(),
        collector="http://collector:8400",
        tap_id="t-1",
        token="s3cret-of-the-tap",
        plain_http_allowed=True,
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"tap_id": ""}, "tap_id must be"),
        ({"tap_id": "a b"}, "tap_id must be"),
        ({"tap_id": "a\n"}, "tap_id must be"),
        ({"collector": "unix:"}, "needs a path"),
        ({"collector": "/run/c.sock"}, "collector must be unix:"),
        ({"collector": "http://127.0.0.1:1/v1"}, "collector must be unix:"),
        ({"collector": "https://collector:hunter2"}, "collector must be unix:"),
        ({"collector": "https://[hunter2"}, "collector must be unix:"),
        ({"collector": "http://collector:8400"}, "https unless it is on loopback"),
        ({"token": "a\nb"}, "token must be"),
        ({"collector": "http://127.0.0.1:8400"}, "token is required over TCP"),
        ({"collector": "https://collector"}, "token is required over TCP"),
        ({"lease_ms": 5_000}, "heartbeat_ms less than"),
        ({"heartbeat_ms": 10, "lease_ms": 99}, "lease_ms must be"),
        ({"exclude_paths": ["healthz"]}, "exclude_paths must be a list of paths that begin with a slash"),
        ({"exclude_paths": "/healthz"}, "exclude_paths must be a list of paths"),
        ({"request_headers": ["x-tenant:"]}, "request_headers must be a list of names"),
        ({"response_headers": "x-tenant"}, "response_headers must be a list of names"),
        ({"methods_without_bodies": ["GET "]}, "methods_without_bodies must be a list of names"),
    ],
)
def test_a_wrong_setting_raises_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    right: dict[str, Any] = {"collector": "unix:/c.sock", "tap_id": "t-1"}
    with pytest.raises(ValueError, match=sentence) as caught:
        AuditTapMiddleware(sends(), **{**right, **settings})
    assert "hunter2" not in str(caught.value)
