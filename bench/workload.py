"""What is measured: captures as lines, all drawn from a seed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from auditap_example.document import server_url
from auditap_example.traffic import mixed_captures
from redactor.config import DocumentConfig, RedactionConfig
from redactor.openapi.document import OpenApiDocument
from redactor.report.operation_fields import Body, DocumentFields, OperationFields
from schemas.capture import Capture
from schemas.identity import new_id
from tests.unit.redactor.report.instances import JSON, Tokens, instance, pair_for

EXAMPLE_DOCUMENT = Path("examples/auditap_example/openapi.yaml")
LIST_OPERATION = "notification-policies-list"
_ACCOUNT = "1f0c2b7d9e8a4c3b8d6e5f4a3b2c1d0e"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def example_config() -> RedactionConfig:
    """The example's document; the one operation whose GET response is kept is what long lists are measured with."""
    document = DocumentConfig(EXAMPLE_DOCUMENT, envelope="result")
    return RedactionConfig(documents=(document,), get_responses_kept=frozenset({LIST_OPERATION}))


def example_lines(count: int, seed: int = 1) -> list[bytes]:
    """1.4 KB a pair, the two bodies 660 characters together, 30 % GET, one in ten failed, one in fifty unrouted."""
    return [msgspec.json.encode(each) for each in mixed_captures(count, seed, now_ms=now_ms())]


def list_lines(count: int, body_bytes: int = 27_000, seed: int = 2) -> list[bytes]:
    """Responses that list policies, `body_bytes` each."""
    rng = Random(seed)
    policies = [_policy(rng) for _ in range(400)]
    return [msgspec.json.encode(_list_pair(rng, policies, body_bytes)) for _ in range(count)]


def _policy(rng: Random) -> dict[str, Any]:
    return {
        "id": f"{rng.getrandbits(128):032x}",
        "name": f"Policy {rng.randrange(10_000)}",
        "description": " ".join(rng.choices(("origin", "traffic", "since", "monday", "asked"), k=30)),
        "enabled": rng.random() < 0.5,
        "alert_type": "origin_unreachable",
        "alert_interval": "30m",
        "created": "2026-03-04T10:00:00Z",
        "modified": "2026-05-06T10:00:00Z",
        "filters": {"services": ["dns", "load-balancing"], "zones": [f"{rng.getrandbits(128):032x}"]},
        "mechanisms": {"email": [{"id": f"someone.{rng.randrange(1000)}@people.example"}]},
    }


def _list_pair(rng: Random, policies: list[dict[str, Any]], body_bytes: int) -> dict[str, Any]:
    size, listed = 0, list[dict[str, Any]]()
    while size < body_bytes:
        listed.append(rng.choice(policies))
        size += len(msgspec.json.encode(listed[-1])) + 1
    body = {"result": listed, "success": True, "errors": [], "messages": []}
    return {
        "id": new_id(now_ms()),
        "request": {
            "method": "GET",
            "url": f"{server_url()}/accounts/{_ACCOUNT}/alerting/v3/policies",
            "headers": {"user-agent": "curl/8.5.0"},
        },
        "response": {
            "status": 200,
            "headers": {"content-type": "application/json", "cf-ray": "9c2a51d7e4b06f38-AMS"},
            "body": msgspec.json.encode(body).decode(),
        },
    }


def every_operation_lines(document: OpenApiDocument, config: RedactionConfig) -> list[bytes]:
    """One pair for each operation of a document; a body that it declares has a value at every position."""
    document_fields = DocumentFields(document, config)
    lines = []
    for operation in document_fields.operations:
        found = document_fields.of(operation)
        if found is not None:
            pair = msgspec.structs.replace(_filled_pair(found), id=new_id(now_ms()))
            lines.append(msgspec.json.encode(pair))
    return lines


def _filled_pair(found: OperationFields) -> Capture:
    requests = found.request_bodies() if found.reads_requests else ()
    return pair_for(
        found,
        body=_filled(requests),
        answer=_filled(found.response_bodies(200)),
        value=_ACCOUNT,
    )


def _filled(bodies: Iterable[Body]) -> Any:
    for each in bodies:
        if each.media_type == JSON and each.root is not None:
            return instance(each.root, Tokens("value-"), 0)
    return None


def batches(lines: list[bytes], size: int) -> Iterator[bytes]:
    """The lines as NDJSON bodies of `size` captures."""
    rest = iter(lines)
    while batch := list(islice(rest, size)):
        yield b"\n".join(batch)


def bodies_in(lines: list[bytes]) -> int:
    """How many bytes of bodies the lines hold."""
    pairs = (json.loads(line) for line in lines)
    return sum(
        len((each[side].get("body") or "").encode()) for each in pairs for side in ("request", "response")
    )
