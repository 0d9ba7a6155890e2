"""Alerts are told until they are taken, within bounds, and signed."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from schemas.metric_defs import Metrics
from tests.audit_database import AuditDatabase
from tests.watching import action, raised, rules
from watcher.channels import SIGNATURE_HEADER, TIMESTAMP_HEADER, Channels, slack_text
from watcher.deliver import Deliverer, DeliveryLimits
from watcher.postgres_store import PostgresWatchStore
from watcher.rules import RuleSet

LIMITS = DeliveryLimits(attempts_max=3, retry_wait_ms_initial=1, retry_wait_ms_max=5)


@pytest.fixture
async def store(audit_database: AuditDatabase) -> AsyncIterator[PostgresWatchStore]:
    held = await PostgresWatchStore.connect(
        audit_database.watcher_dsn, "test", connections_max=4, command_timeout_ms=10_000
    )
    yield held
    await held.close()


class Receiver:
    """The other side: answers with `statuses`, the last one again and again."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.got: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.got.append(request)
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return httpx.Response(
            status, text="never read", headers={"location": "https://elsewhere.example.com"}
        )


def held_rules(folder: Path, url: str = "https://alerts.example.com/in") -> RuleSet:
    (folder / "key").write_text("s3cret\n")
    (folder / "slack").write_text("https://hooks.example.com/T0/B0\n")
    return rules(
        {"name": "deletions", "when": {"action.type": "delete"}, "key": ["resource.id"]},
        hook={"type": "webhook", "url": url, "secret_file": str(folder / "key")},
        chat={"type": "slack", "url_file": str(folder / "slack")},
        out={"type": "stdout"},
    )


class Bench:
    def __init__(self, store: PostgresWatchStore, held: RuleSet, receiver: Receiver) -> None:
        self.printed: list[Any] = []
        self.metrics = Metrics()
        self.client = httpx.AsyncClient(transport=httpx.MockTransport(receiver))
        channels = Channels(self.client, lambda: held.channels, self.printed.append, lambda: 1_700_000_000.5)
        self.deliverer = Deliverer(store, channels.find, LIMITS, self.metrics)

    async def settle(self) -> None:
        quiet = 0
        while quiet < 3:
            quiet = 0 if await self.deliverer.deliver() else quiet + 1
            await asyncio.sleep(0.02)
        await self.client.aclose()


async def states(database: AuditDatabase) -> dict[str, tuple[str, int, str | None]]:
    import asyncpg  # noqa: PLC0415

    connection = await asyncpg.connect(database.admin_dsn)
    try:
        rows = await connection.fetch("SELECT * FROM auditap.alert_deliveries")
    finally:
        await connection.close()
    return {row["channel"]: (row["state"], row["attempts"], row["outcome"]) for row in rows}


async def test_an_alert_is_told_on_every_channel_once(
    store: PostgresWatchStore, audit_database: AuditDatabase, tmp_path: Path
) -> None:
    held, receiver = held_rules(tmp_path), Receiver(200)
    deletion = action(action_type="delete", resource_id="r", actor_email="<a@example.com>")
    [alert] = await raised(held, [deletion, deletion], store)
    bench = Bench(store, held, receiver)
    await bench.settle()
    hook, chat = sorted(receiver.got, key=lambda request: "hooks" in request.url.host)
    document = json.loads(hook.content)
    assert document == bench.printed[0]
    assert (document["id"], document["rule"], document["record"]["id"]) == (
        alert.id.hex,
        "deletions",
        deletion.id.hex,
    )
    signed = hmac.new(b"s3cret", b"1700000000." + hook.content, hashlib.sha256).hexdigest()
    assert hook.headers[SIGNATURE_HEADER] == f"v1={signed}"
    assert hook.headers[TIMESTAMP_HEADER] == "1700000000"
    assert hook.headers["idempotency-key"] == f"{alert.id.hex}-hook"
    assert "&lt;a@example.com&gt;" in json.loads(chat.content)["text"]
    assert len(receiver.got) == 2
    assert {state for state, *_ in (await states(audit_database)).values()} == {"delivered"}


@pytest.mark.parametrize(
    ("statuses", "ending"),
    [((503, 200), ("delivered", 2)), ((503,), ("dead", 3)), ((302,), ("dead", 3)), ((410,), ("dead", 1))],
)
async def test_what_is_not_taken_is_tried_within_bounds(
    store: PostgresWatchStore,
    audit_database: AuditDatabase,
    tmp_path: Path,
    statuses: tuple[int, ...],
    ending: tuple[str, int],
) -> None:
    held, receiver = held_rules(tmp_path), Receiver(*statuses)
    held = RuleSet(held.rules, {"hook": held.channels["hook"]}, held.digest)
    await raised(held, [action(action_type="delete")], store)
    await Bench(store, held, receiver).settle()
    found = await states(audit_database)
    assert found["hook"][:2] == ending
    assert found["chat"][0] == "dead"  # there is no such channel any more
    assert len({request.headers["idempotency-key"] for request in receiver.got}) == 1


async def test_a_delivery_is_nobody_else_s_while_it_is_told(
    store: PostgresWatchStore, tmp_path: Path
) -> None:
    held = held_rules(tmp_path)
    await raised(held, [action(action_type="delete", resource_id=str(number)) for number in range(4)], store)
    taken = await asyncio.gather(*(store.take(4, 60_000) for _ in range(4)))
    named = [(each.alert_id, each.channel) for one in taken for each in one]
    assert len(named) == len(set(named)) == 12
    assert await store.take(100, 60_000) == []


async def test_a_crash_while_telling_tells_again_under_the_same_key(
    store: PostgresWatchStore, tmp_path: Path
) -> None:
    held, receiver = held_rules(tmp_path), Receiver(200)
    await raised(held, [action(action_type="delete")], store)
    assert len(await store.take(10, 1)) == 3  # taken, and then nothing
    await asyncio.sleep(0.05)
    await Bench(store, held, receiver).settle()
    assert len(receiver.got) == 2


@pytest.mark.parametrize("url", ["http://alerts.example.com/in", "https://[bad"])
async def test_an_address_that_cannot_be_used_is_not_used(
    store: PostgresWatchStore, audit_database: AuditDatabase, tmp_path: Path, url: str
) -> None:
    held, receiver = held_rules(tmp_path, url), Receiver(200)
    await raised(held, [action(action_type="delete")], store)
    await Bench(store, held, receiver).settle()
    assert (await states(audit_database))["hook"][0] == "dead"
    assert [request.url.host for request in receiver.got] == ["hooks.example.com"]


def test_a_text_obeys_nobody() -> None:
    document = {
        "id": "1",
        "severity": "high",
        "title": "<!channel> \x1b[31m",
        "account": {"id": None},
        "records": 1,
        "window": {"start": "now"},
        "record": {},
    }
    assert "<" not in slack_text(document)
    assert "\x1b" not in slack_text(document)
