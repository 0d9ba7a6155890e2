"""Traffic of the example API: sent to it, or written down as captures.

All of it is drawn from a seed. Names, addresses and hosts are reserved for examples.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from itertools import cycle
from random import Random
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

from auditap_example.cast import accounts, callers, fixed_id, identity_headers, users, zones
from auditap_example.document import JSON, Operation, operations, server_url
from auditap_example.plan import Planned, Planner, planned, unrouted
from auditap_example.sample import sample, text
from schemas.identity import derive_id, rfc3339_ms

SPAN_MS = 600_000
_TAP_ID = "example-tap"
_BODIES_CHARS = (590, 810)
_FAILURES = (400, 403, 404)
_RARE = {
    *("tokens-create", "access-login", "log-queries-run", "firewall-rules-create"),
    *("scripts-upload", "scripts-patch", "values-put"),
}


async def trickle(client: httpx.AsyncClient, *, per_second: float, stop: asyncio.Event, seed: int) -> None:
    """Send requests through `client` until `stop` is set: one after the other, at most `per_second` (above 0) of them.

    `client` has the address of the service as its `base_url`. While the service is away, requests fail silently and go
    on at the same rate.
    """
    planner = Planner(seed)
    while not stop.is_set():
        request = planner.next()
        with contextlib.suppress(httpx.HTTPError):
            response = await client.request(
                request.method, request.path, headers=dict(request.headers), content=request.content
            )
            planner.learn(request, response.status_code, response.content)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 1 / per_second)


def capture_example() -> dict[str, Any]:
    """Return one capture for trying a collector by hand: a notification policy is updated.

    Its name, switches and filters are marked in the document; description and mechanisms are not. It has no id and no
    time, so it gets the time of receipt.
    """
    account = accounts()[0]
    policy_id = fixed_id("policy", account.id)
    request = {
        "name": "Origin down",
        "description": "Tell Bo before the night shift starts",
        "enabled": True,
        "alert_type": "origin_unreachable",
        "filters": {"services": ["load-balancing", "dns"], "zones": [zones()[0].id]},
        "mechanisms": {"email": [{"id": "night-shift@people.example"}]},
    }
    response = {"result": {"id": policy_id}, "success": True, "errors": [], "messages": []}
    headers = {"content-type": JSON, "cf-ray": "9c2a51d7e4b06f38-AMS"}
    return {
        "client_ip": "203.0.113.9",
        "request": {
            "method": "PUT",
            "url": f"{server_url()}/accounts/{account.id}/alerting/v3/policies/{policy_id}",
            "headers": {"content-type": JSON, "user-agent": "Mozilla/5.0 (X11; Linux x86_64)"},
            "body": msgspec.json.encode(request).decode(),
        },
        "response": {
            "status": 200,
            "headers": {**headers, **identity_headers(users()[0], {"account_id"})},
            "body": msgspec.json.encode(response).decode(),
        },
    }


def mixed_captures(count: int, seed: int, *, now_ms: int, with_ids: bool = True) -> Iterator[dict[str, Any]]:
    """Yield `count` captures over all operations of the document; the same arguments give the same captures.

    30 % are GET, one in ten failed, one in fifty is of no operation, and 46 % have a request body. Operations whose bodies
    are special, which the small document has many of, are rarer than plain ones, as they would be in a large API. A
    capture is about 1.4 KB of JSON, its two bodies 660 characters together. `captured_at` runs over the `SPAN_MS` before
    `now_ms` (Unix ms), in order. The tap's sequence numbers run from 0 within the seed as its epoch. Without ids, id and
    time are for whoever takes the captures to derive from tap and `captured_at`. Two seeds share no id.
    """
    rng = Random(seed)  # noqa: S311 (an example, no secret)
    reads = cycle([each for each in operations() if each.method == "GET"])
    writes = cycle([each for each in operations() if each.method != "GET" for _ in range(_share(each))])
    for seq in range(count):
        at_ms = now_ms - SPAN_MS + seq * SPAN_MS // count
        caller = rng.choice(callers())
        operation = next(reads if rng.random() < 0.3 else writes)
        request = unrouted(caller, rng) if rng.random() < 0.02 else planned(operation, caller, rng)
        capture = {
            "tap": {"id": _TAP_ID, "epoch": seed, "seq": seq},
            "captured_at": rfc3339_ms(at_ms),
            **_pair(request, rng),
        }
        if with_ids:
            capture["id"] = derive_id(f"example {seed}".encode(), at_ms, _TAP_ID, seed, str(seq))
        yield capture


def _share(operation: Operation) -> int:
    """Return how many times as often as a rare operation this one is in the mix."""
    if operation.body is None:
        return 2
    return 1 if operation.operation_id in _RARE else 3


def _pair(request: Planned, rng: Random) -> dict[str, Any]:
    origin = urlsplit(server_url())
    status, body = _drawn_response(request, rng)
    identity = identity_headers(request.caller, request.params)
    pair: dict[str, Any] = {
        "duration_ms": rng.randint(20, 4000) / 10,
        "client_ip": f"203.0.113.{1 + int(request.caller.user_id[:4], 16) % 254}",
        "request": {
            "method": request.method,
            "url": f"{origin.scheme}://{origin.netloc}{request.path}",
            "headers": dict(request.headers),
        },
        "response": {
            "status": status,
            "headers": {"cf-ray": f"{rng.getrandbits(64):016x}-AMS", **identity},
        },
    }
    if request.content is not None:
        pair["request"]["body"] = request.content.decode()
    if body is not None:
        pair["response"]["body"] = body
        pair["response"]["headers"]["content-type"] = JSON
    return pair


def _drawn_response(request: Planned, rng: Random) -> tuple[int, str | None]:
    """Return a declared status, and a body that fits its schema (None: no body).

    Messages fill the body until the pair's two bodies have the promised size.
    """
    if request.operation is None:
        return (204, None) if request.method == "OPTIONS" else (404, '{"result":null,"success":false}')
    failed = rng.random() < 0.1
    status = rng.choice(_FAILURES) if failed else request.operation.success_status
    schema = request.operation.schema_of(status)
    if schema is None or request.method == "HEAD":
        return status, None
    parts = schema["properties"]
    envelope = {
        "result": None if failed else sample(parts["result"], rng),
        "success": not failed,
        "errors": sample(parts["errors"], rng) if failed else [],
        "messages": [],
    }
    missing = rng.randint(*_BODIES_CHARS) - len(request.content or b"") - len(msgspec.json.encode(envelope))
    if missing > 40:
        envelope["messages"] = [{"code": 1000, "message": text(rng, missing - 30, missing - 30)}]
    return status, msgspec.json.encode(envelope).decode()
