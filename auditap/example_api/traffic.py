"""Traffic of the example API: sent to it for as long as wished, or written down as captures.

All of it is drawn from a seed; names, addresses and hosts are reserved for examples.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from random import Random
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

from auditap.example_api.cast import Caller, accounts, callers, fixed_id, identity_headers, users, zones
from auditap.example_api.document import Operation, server_url
from auditap.example_api.plan import JSON, Planned, Planner, planned, sampled_operations, unrouted
from auditap.example_api.sample import Sampler, properties_of, sampler_of, text
from schemas.identity import derive_id, rfc3339_ms

SPAN_MS = 600_000
_BODIES_CHARS = (560, 780)
_FAILURES = (400, 403, 404)


async def trickle(client: httpx.AsyncClient, *, per_second: float, stop: asyncio.Event, seed: int) -> None:
    """Send requests through `client` until `stop` is set: one after the other, at most `per_second` (above 0) of them.

    `client` has the address of the service as its `base_url`. A service that is away is asked again at the same
    pace; nothing is raised or logged for it.
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

    Name, switches and filters are marked in the document; description and mechanisms are not. It has no id and no
    time: it happened when it arrives.
    """
    account, user = accounts()[0], users()[0]
    policy_id = fixed_id("policy", account.id)
    path = f"/accounts/{account.id}/alerting/v3/policies/{policy_id}"
    request = {
        "name": "Origin down",
        "description": "Tell Bo before the night shift starts",
        "enabled": True,
        "alert_type": "origin_unreachable",
        "filters": {"services": ["load-balancing", "dns"], "zones": [zones()[0].id]},
        "mechanisms": {"email": [{"id": "night-shift@people.example"}]},
    }
    response = {"result": {"id": policy_id}, "success": True, "errors": [], "messages": []}
    return {
        "client_ip": "203.0.113.9",
        "request": {
            "method": "PUT",
            "url": server_url() + path,
            "headers": {"content-type": JSON, "user-agent": "Mozilla/5.0 (X11; Linux x86_64)"},
            "body": msgspec.json.encode(request).decode(),
        },
        "response": {
            "status": 200,
            "headers": {
                "content-type": JSON,
                "cf-ray": "9c2a51d7e4b06f38-AMS",
                **identity_headers(user, {"account_id"}),
            },
            "body": msgspec.json.encode(response).decode(),
        },
    }


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer that an operation declares: `result` draws what the envelope holds, `errors` what went wrong."""

    has_body: bool
    result: Sampler | None
    errors: Sampler | None

    @classmethod
    def of(cls, operation: Operation, status: int) -> _Answer:
        schema = operation.schema_of(status)
        if schema is None:
            return cls(has_body=False, result=None, errors=None)
        properties = properties_of(schema)
        result = sampler_of(properties["result"]) if "result" in properties else None
        errors = sampler_of(properties["errors"]) if status >= 400 else None
        return cls(has_body=True, result=result, errors=errors)

    def body(self, rng: Random, chars: int) -> dict[str, Any]:
        """Return an envelope whose messages fill it up to about `chars` characters."""
        envelope = {
            "result": self.result(rng) if self.result else None,
            "success": self.errors is None,
            "errors": self.errors(rng) if self.errors else [],
            "messages": [],
        }
        missing = chars - len(msgspec.json.encode(envelope))
        if missing > 40:
            envelope["messages"] = [{"code": 1000, "message": text(rng, missing - 30, missing - 30)}]
        return envelope


@cache
def _answer(operation: Operation, status: int) -> _Answer:
    return _Answer.of(operation, status)


def mixed_captures(
    count: int,
    seed: int,
    *,
    now_ms: int,
    with_ids: bool = True,
    tap_id: str = "example-tap",
    tap_epoch: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield `count` captures over all operations of the document; the same arguments give the same captures.

    30 % are GET, one in ten failed, one in fifty is of no operation. A capture is about 1.4 KB of JSON, its two
    bodies 670 characters together. `captured_at` runs over the `SPAN_MS` before `now_ms` (Unix ms), in order.
    The tap's sequence numbers run from 0 within `tap_epoch` (the seed by default). Without ids, id and time are
    for whoever takes the captures to derive from tap and `captured_at`. Two seeds share no id.
    """
    rng = Random(seed)  # noqa: S311 (an example, no secret)
    epoch = seed if tap_epoch is None else tap_epoch
    by_kind = {
        is_get: cycle([s for s in sampled_operations() if (s.operation.method == "GET") is is_get])
        for is_get in (True, False)
    }
    for seq in range(count):
        at_ms = now_ms - SPAN_MS + seq * SPAN_MS // count
        caller = rng.choice(callers())
        sampled = next(by_kind[rng.random() < 0.3])
        request = unrouted(caller, rng) if rng.random() < 0.02 else planned(sampled, caller, rng)
        capture = {
            "tap": {"id": tap_id, "epoch": epoch, "seq": seq},
            "captured_at": rfc3339_ms(at_ms),
            **_pair(request, rng),
        }
        if with_ids:
            capture["id"] = derive_id(f"example {seed}".encode(), at_ms, tap_id, epoch, str(seq))
        yield capture


def _pair(request: Planned, rng: Random) -> dict[str, Any]:
    status, body = _drawn_answer(request, rng)
    origin = urlsplit(server_url())
    return {
        "duration_ms": rng.randint(20, 4000) / 10,
        "client_ip": _address(request.caller),
        "request": {
            "method": request.method,
            "url": f"{origin.scheme}://{origin.netloc}{request.path}",
            "headers": dict(request.headers),
        }
        | ({} if request.content is None else {"body": request.content.decode()}),
        "response": {"status": status, "headers": _response_headers(request, rng, body)}
        | ({} if body is None else {"body": body}),
    }


def _drawn_answer(request: Planned, rng: Random) -> tuple[int, str | None]:
    """Return a status and a body, where there is one, as the document declares them."""
    if request.operation is None:
        return (204, None) if request.method == "OPTIONS" else (404, '{"result":null,"success":false}')
    failed = rng.random() < 0.1
    status = rng.choice(_FAILURES) if failed else request.operation.success_status
    answer = _answer(request.operation, status)
    if request.method == "HEAD" or not answer.has_body:
        return status, None
    chars = rng.randint(*_BODIES_CHARS) - len(request.content or b"")
    return status, msgspec.json.encode(answer.body(rng, chars)).decode()


def _response_headers(request: Planned, rng: Random, body: str | None) -> Mapping[str, str]:
    headers = {
        "cf-ray": f"{rng.getrandbits(64):016x}-AMS",
        **identity_headers(request.caller, request.params),
    }
    return headers if body is None else headers | {"content-type": JSON}


def _address(caller: Caller) -> str:
    return f"203.0.113.{1 + int(caller.user_id[:4], 16) % 254}"
