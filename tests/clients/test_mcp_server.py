"""The MCP server for audit logs, whose schema rejects a page for one value."""

from __future__ import annotations

import pytest

from tests.clients.known_records import known_records, read_v2, shown_v2
from tests.clients.reading import Client, mcp_server
from tests.clients.sdk_contract import RANGE, target_in
from tests.clients.served_log import ServedLog


@pytest.mark.parametrize("client", [mcp_server], indirect=True)
class TestMcpServer:
    async def test_every_page_passes_its_schema(self, client: Client, served: ServedLog) -> None:
        target = await target_in(served)
        records = known_records(target["account"])
        await served.add(records)
        found = await client.read("v2", **target, **RANGE, per_page=70)
        newest_first = sorted(records, key=lambda one: one.id, reverse=True)
        for decoded, one in zip(found, newest_first, strict=True):
            assert read_v2(decoded) == shown_v2(one)
