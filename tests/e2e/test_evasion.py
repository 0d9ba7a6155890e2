"""Nobody takes an action out of their account's list by the way they write the request, or by what they are called."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from schemas.capture import Headers
from schemas.identity import new_id, rfc3339_ms
from tests.e2e.conftest import StartPipeline
from tests.spellings import ACCOUNT, OVERRIDES, PATH, TARGETS
from tests.unit.redactor.documents import a_document, an_operation
from tests.unit.redactor.schemas import MARKED, an_object

SHIFTED = "arn:aws:iam::1:user/ana b#é"


def document(folder: Path) -> Path:
    path = folder / "openapi.json"
    operation = an_operation(an_object(name=MARKED))
    path.write_text(json.dumps(a_document({"/accounts/{account_id}/items": {"post": operation}})))
    return path


def capture(at_ms: int, url: str, headers: dict[str, Any], **response_headers: str) -> dict[str, Any]:
    return {
        "id": new_id(at_ms),
        "client_ip": "[::ffff:10.0.0.1]:1234",
        "request": {
            "method": "POST",
            "url": url,
            "headers": {"content-type": "application/json", **headers},
            "body": '{"name": "s3cret"}',
        },
        "response": {"status": 200, "headers": {"x-actor-id": "CORP\\mallory", **response_headers}},
    }


async def test_every_spelling_of_an_action_is_in_its_accounts_list(
    start_pipeline: StartPipeline, tmp_path: Path
) -> None:
    pipeline = await start_pipeline(document(tmp_path))
    now_ms = time.time_ns() // 1_000_000
    written: list[tuple[str, Headers]] = [(url, {}) for urls in TARGETS.values() for url in urls] + list(
        OVERRIDES
    )
    captures = [capture(now_ms, url, dict(headers)) for url, headers in [(PATH, {}), *written]]
    foreign = capture(now_ms, "/nothing", {}, **{"x-account-id": SHIFTED})
    assert await pipeline.send([*captures, foreign]) == (len(captures) + 1, [])
    await pipeline.until_processed(len(captures) + 1)
    since, before = rfc3339_ms(now_ms), rfc3339_ms(now_ms + 1)

    listed = await pipeline.list_records(ACCOUNT, since, before)
    assert {each["id"] for each in listed} == {each["id"] for each in captures}
    altered = await pipeline.list_records(ACCOUNT, since, before, altered="true")
    assert {each["id"] for each in altered} == {each["id"] for each in captures[1:]}
    overriding = await pipeline.list_records(ACCOUNT, since, before, unmatched="method_override")
    assert {each["id"] for each in overriding} == {each["id"] for each in captures[-len(OVERRIDES) :]}
    for record in altered:
        assert record["resource"] == {"product": "items", "scope": "accounts", "type": "items"}
        assert record["actor"] == {"id": "CORP\\mallory", "ip_address": "10.0.0.1"}
    found = await pipeline.list_records(ACCOUNT, since, before, actor_ip_address="10.0.0.1")
    assert len(found) == len(captures)
    assert pipeline.collector is not None
    assert await pipeline.collector.metric(
        'auditap_captures_unmatched_total{altered="true",reason="method_override"}'
    ) == len(OVERRIDES)

    [record] = await pipeline.list_records(quote(SHIFTED, safe=""), since, before)
    assert (record["id"], record["account"]["id"]) == (foreign["id"], SHIFTED)
