"""Hostile captures are stored, dead-lettered or refused one by one with a reason; never a batch for one of them."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from schemas.identity import id_ms, new_id
from tests.e2e.conftest import StartPipeline
from tests.e2e.golden import DOCUMENT, golden_capture

COUNT = 1_000

Capture = dict[str, Any]


def in_request(**fields: str) -> Callable[[Capture], None]:
    return lambda capture: capture["request"].update(fields)


def with_body(body: str) -> Callable[[Capture], None]:
    return in_request(body=body)


def with_url(url: str) -> Callable[[Capture], None]:
    return in_request(url=url)


def with_raw_body(body: bytes) -> Callable[[Capture], None]:
    def change(capture: Capture) -> None:
        del capture["request"]["body"]
        capture["request"]["body_base64"] = base64.b64encode(body).decode()

    return change


def with_user_agent(text: str) -> Callable[[Capture], None]:
    return lambda capture: capture["request"]["headers"].update({"User-Agent": text})


def at(time_text: str) -> Callable[[Capture], None]:
    def change(capture: Capture) -> None:
        del capture["id"]
        capture["captured_at"] = time_text

    return change


def with_id_at(at_ms: int) -> Callable[[Capture], None]:
    def change(capture: Capture) -> None:
        capture["id"] = new_id(at_ms)

    return change


POLICIES = "https://api.example.com/client/v4/accounts"
STORED: dict[str, Callable[[Capture], None]] = {
    "nul in a kept string": with_body('{"name": "a\\u0000b"}'),
    "nul in a header": with_user_agent("a\0b"),
    "lone surrogate in the body": with_body('{"name": "\\ud800"}'),
    "a number beyond any float": with_body('{"enabled": true, "description": 1e200000}'),
    "a 6 KB URI": with_url(f"{POLICIES}/{'x' * 6_000}/alerting/v3/policies/1"),
    "a 6 KB URI of no operation": with_url(f"https://api.example.com/{'y' * 6_000}"),
    "a 60 KB URI": with_url(f"{POLICIES}/{'x' * 60_000}/alerting/v3/policies/1"),
    "nul in the path": with_url(f"{POLICIES}/a%00b/alerting/v3/policies/1"),
    "depth 100,000": with_body("[" * 100_000 + "]" * 100_000),
    "not UTF-8": with_raw_body(b'{"name": "\xff"}'),
    "UTF-16": with_raw_body('{"name": "a"}'.encode("utf-16")),
    "a body of 2 MB": with_body('{"name": "' + "z" * 2_000_000 + '"}'),
    "not JSON": with_body("{"),
    "NaN": with_body('{"enabled": NaN}'),
    "no body where one is due": with_body(""),
    "an odd host": with_url("https://[::1]:99999/client/v4/accounts/a/alerting/v3/policies/b"),
    "an odd method": lambda capture: capture["request"].update(method="\x7fPUT"),
    "an address that is none": lambda capture: capture.update(client_ip="999.1.1.1"),
}
DEAD_LETTERED: dict[str, tuple[str, Callable[[Capture], None]]] = {
    "the year 1": ("expired", at("0001-01-01T00:00:00Z")),
    "the year 1970 in the id": ("expired", with_id_at(0)),
}
CLAMPED: dict[str, Callable[[Capture], None]] = {
    "the year 9999": at("9999-12-31T23:59:59Z"),
    "the last id there is": with_id_at((1 << 48) - 1),
    "next year": at(f"{datetime.now(UTC).year + 1}-12-31T00:00:00Z"),
}
REFUSED: dict[str, tuple[str, Callable[[Capture], None]]] = {
    "an id that is none": ("id: format", lambda capture: capture.update(id="0" * 32)),
    "a time that is none": ("captured_at: format", at("yesterday")),
    "a status that is none": (
        "response.status: maximum",
        lambda capture: capture["response"].update(status=1_000),
    ),
}


KINDS = sorted([*STORED, *CLAMPED, *DEAD_LETTERED, *REFUSED])


def hostile_batch(now_ms: int) -> tuple[list[Capture | bytes], dict[str, str], dict[str, str]]:
    """Return 1,000 captures, one of each hostile kind among them; by id what is dead-lettered and why, by kind what is refused."""
    lines: list[Capture | bytes] = []
    dead_lettered: dict[str, str] = {}
    refused: dict[str, str] = {}
    for kind, change in (STORED | CLAMPED).items():
        lines.append(changed(now_ms, change, kind))
    for kind, (reason, change) in DEAD_LETTERED.items():
        capture = changed(now_ms, change, kind)
        dead_lettered[kind] = reason
        lines.append(capture)
    for kind, (path, change) in REFUSED.items():
        lines.append(changed(now_ms, change, kind))
        refused[kind] = path
    lines.append(b'{"request": {"method": "GET", "url": "\\ud800"}, "response": {"status": 200}}')
    lines += [golden_capture(now_ms - number) for number in range(COUNT - len(lines))]
    return lines, dead_lettered, refused


def changed(now_ms: int, change: Callable[[Capture], None], kind: str) -> Capture:
    capture = golden_capture(now_ms)
    capture["tap"] = {"id": "hostile", "epoch": 1, "seq": KINDS.index(kind)}
    change(capture)
    return capture


async def test_every_hostile_capture_has_one_clear_end(start_pipeline: StartPipeline) -> None:
    pipeline = await start_pipeline(DOCUMENT)
    now_ms = time.time_ns() // 1_000_000
    lines, dead_lettered, refused = hostile_batch(now_ms)
    assert len(lines) == COUNT

    accepted, refusals = await pipeline.send(lines)
    assert accepted == COUNT - len(refused) - 1
    assert sorted(each["path"] for each in refusals) == sorted(["", *refused.values()])

    assert await pipeline.until_processed(accepted) == (accepted - len(dead_lettered), len(dead_lettered))
    dead_letters = await pipeline.fetch("SELECT reason FROM auditap.dead_letters")
    assert sorted(row["reason"] for row in dead_letters) == sorted(dead_lettered.values())

    rows = await pipeline.fetch(
        "SELECT id, clamped_from_ms, tap_seq, receipt FROM auditap.audit_records WHERE tap_id = 'hostile'"
    )
    by_kind = {KINDS[row["tap_seq"]]: json.loads(row["receipt"]) for row in rows}
    assert set(by_kind) == {*STORED, *CLAMPED}
    assert {KINDS[row["tap_seq"]] for row in rows if row["clamped_from_ms"] is not None} == set(CLAMPED)
    assert all(id_ms(row["id"].hex) <= time.time_ns() // 1_000_000 for row in rows)
    for kind, reason in {
        "lone surrogate in the body": "malformed",
        "depth 100,000": "too_deep",
        "not UTF-8": "malformed",
        "UTF-16": "malformed",
        "a body of 2 MB": "too_large",
        "not JSON": "malformed",
        "NaN": "malformed",
    }.items():
        assert by_kind[kind]["request"] == {"reason": reason}, kind
    assert by_kind["a number beyond any float"]["request"] == {"kept": 1}
    assert by_kind["nul in a kept string"]["request"] == {"kept": 1}
