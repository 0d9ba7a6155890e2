"""Every operation of a real document ends as a record with its own operation id."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from schemas.identity import new_id
from tests.e2e.conftest import StartPipeline

METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}


def operations(document: Path) -> list[tuple[str, str, str]]:
    """Return method, path template and operation id of every operation."""
    paths: dict[str, dict[str, Any]] = json.loads(document.read_text())["paths"]
    return [
        (method.upper(), template, operation["operationId"])
        for template, item in paths.items()
        for method, operation in item.items()
        if method in METHODS
    ]


def capture(server: str, method: str, template: str, number: int, at_ms: int) -> dict[str, Any]:
    # A value that no template has as a literal, so that only the template itself can match.
    path = re.sub(r"\{[^}]*\}", f"0000value{number:05d}", template)
    return {
        "id": new_id(at_ms),
        "request": {"method": method, "url": server + path},
        "response": {"status": 200},
    }


async def test_every_operation_of_the_marked_document_is_recognised(
    start_pipeline: StartPipeline, real_specs: Path
) -> None:
    document = real_specs / "cloudflare-auditable.openapi.json"
    server = json.loads(document.read_text())["servers"][0]["url"]
    wanted = operations(document)
    assert len(wanted) == 2_745
    pipeline = await start_pipeline(document)
    now_ms = time.time_ns() // 1_000_000
    captures = [capture(server, *each[:2], number, now_ms) for number, each in enumerate(wanted)]
    sent = {each["id"]: operation_id for each, (_, _, operation_id) in zip(captures, wanted, strict=True)}

    assert await pipeline.send(captures) == (len(wanted), [])
    assert await pipeline.until_processed(len(wanted)) == (len(wanted), 0)

    rows = await pipeline.fetch("SELECT id, operation_id, receipt FROM auditap.audit_records")
    found = {row["id"].hex: row["operation_id"] for row in rows}
    wrong = {sent[event_id]: found[event_id] for event_id in sent if found[event_id] != sent[event_id]}
    assert wrong == {}
