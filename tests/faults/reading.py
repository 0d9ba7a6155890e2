"""What a user of the log API sees of a load."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from auditap.database.connection import administrator
from auditap.database.tokens import create_token
from schemas.identity import rfc3339_ms
from tests.e2e.pipeline import answered
from tests.faults.load import Load
from tests.faults.system import System

_HOUR_MS = 3_600_000


async def listed(system: System, load: Load) -> dict[str, dict[str, Any]]:
    """Return the load's records by their resource's id, as the pages of each account's list have them.

    Fails where a page shows a record twice.
    """
    async with administrator(system.postgres.dsn()) as admin:
        expires = datetime.now(UTC) + timedelta(hours=1)
        _, token = await create_token(
            admin, "faults", None, ["audit_logs:read"], expires, requests_per_s=10_000
        )
    base = f"http://127.0.0.1:{system.api.port}/client/v4"
    found: dict[str, dict[str, Any]] = {}
    async with httpx.AsyncClient(
        base_url=base, headers={"authorization": f"Bearer {token}"}, timeout=120
    ) as client:
        for account in load.accounts():
            for record in await _all_pages(client, account, load.began_ms):
                assert record["resource"]["id"] not in found
                found[record["resource"]["id"]] = record
    return found


async def _all_pages(client: httpx.AsyncClient, account: str, began_ms: int) -> list[dict[str, Any]]:
    query = {
        "since": rfc3339_ms(began_ms - 3 * _HOUR_MS),
        "before": rfc3339_ms(began_ms + 3 * _HOUR_MS),
        "limit": "1000",
    }
    records: list[dict[str, Any]] = []
    while True:
        answer = await answered(client, f"/accounts/{account}/logs/audit", query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        records += page["result"]
        if not (cursor := page["result_info"].get("cursor")):
            return records
        query["cursor"] = cursor
