"""Loaded first thing by a process whose PYTHONPATH names this folder: makes the collector fail with traffic in hand.

The id of its tap decides which fault a capture meets. Each raises an exception whose message, cause and frames hold
all of the pair, as a library's error would.
"""

from __future__ import annotations

import asyncio
from typing import Any

from auditap.runtime.redacting_sink import RedactingSink
from gateway_tap import collector
from redactor.pipeline.pipeline import Pipeline
from schemas.capture import Capture
from tests.canary.fault_names import CALLBACK, ENDPOINT, REDACTOR, SINK

_event = Pipeline.event
_accept = RedactingSink.accept
_post = collector._Collector.post_captures


def _everything(capture: Capture) -> str:
    request, response = capture.request, capture.response
    return repr(
        [request.url, request.headers, request.body, response.headers, response.body, capture.client_ip]
    )


def _fail(text: str) -> None:
    local = {"everything": text}
    raise LookupError(text) from ValueError(local)


def _tap(capture: Capture) -> str:
    return "" if capture.tap is None else capture.tap.id


def _failing_event(self: Pipeline, capture: Capture, event_id: str) -> bytes | None:
    if _tap(capture) == REDACTOR:
        _fail(_everything(capture))
    return _event(self, capture, event_id)


async def _failing_accept(self: RedactingSink, captures: Any, received_ms: int, refused: Any = ()) -> None:
    for _, capture in captures:
        if _tap(capture) == SINK:
            _fail(_everything(capture))
        if _tap(capture) == CALLBACK:
            asyncio.get_running_loop().call_soon(_fail, _everything(capture))
    await _accept(self, captures, received_ms, refused)


async def _failing_post(self: Any, route: Any, request: Any) -> Any:
    body = await request.body()
    if ENDPOINT.encode() in body:
        _fail(body.decode())
    return await _post(self, route, request)


Pipeline.event = _failing_event  # type: ignore[method-assign]
RedactingSink.accept = _failing_accept  # type: ignore[method-assign]
collector._Collector.post_captures = _failing_post  # type: ignore[method-assign]
