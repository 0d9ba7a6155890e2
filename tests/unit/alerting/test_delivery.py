"""Alerts are signed, and sent until they are accepted, within bounds."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from alerting.channels import SIGNATURE_HEADER, TIMESTAMP_HEADER, Channels, slack_text, why_unusable
from alerting.delivery import Deliverer, DeliveryLimits
from alerting.postgres_store import PostgresAlertStore
from alerting.rules import RuleSet
from schemas.metric_defs import Metrics
from tests.alert_cases import action, raised, rules
from tests.audit_database import AuditDatabase
from tests.fakes.clock import Clock

LIMITS = DeliveryLimits(attempts_max=3, retry_wait_ms_initial=1, retry_wait_ms_max=5)


@pytest.fixture
async def store(audit_database: AuditDatabase) -> AsyncIterator[PostgresAlertStore]:
    held = await PostgresAlertStore.connect(
        audit_database.alerting_dsn, "test", connections_max=4, command_timeout_ms=60_000
    )
    yield held
    await held.close()


class Receiver:
    """A webhook that responds with `statuses`, repeating the last one."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return httpx.Response(
            status, text="never read", headers={"location": "https://elsewhere.example.com"}
        )


def held_rules(folder: Path, url: str = "https://alerts.example.com/in") -> RuleSet:
    (folder / "key").write_text("s3cret-of-the-hook\n")
    (folder / "slack").write_text("https://hooks.example.com/T0/B0\n")
    return rules(
        {"name": "deletions", "when": {"action.type": "delete"}, "key": ["resource.id"]},
        hook={"type": "webhook", "url": url, "secret_file": str(folder / "key")},
        chat={"type": "slack", "url_file": str(folder / "slack")},
        out={"type": "stdout"},
    )


class DeliveryRun:
    def __init__(
        self,
        store: PostgresAlertStore,
        held: RuleSet,
        receiver: Callable[[httpx.Request], httpx.Response],
    ) -> None:
        self.printed: list[Any] = []
        self.clock = Clock(1_000.0)
        self.metrics = Metrics()
        self.client = httpx.AsyncClient(transport=httpx.MockTransport(receiver))
        channels = Channels(self.client, lambda: held.channels, self.printed.append, lambda: 1_700_000_000.5)
        self.deliverer = Deliverer(store, channels.find, LIMITS, self.metrics, self.clock)

    async def until_idle(self) -> None:
        quiet = 0
        while quiet < 3:
            quiet = 0 if await self.deliverer.deliver() else quiet + 1
            await asyncio.sleep(0.02)
        await self.client.aclose()


async def states(database: AuditDatabase) -> dict[str, tuple[str, int, str | None]]:
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        rows = await connection.fetch("SELECT * FROM auditap.alert_deliveries")
    finally:
        await connection.close()
    return {row["channel"]: (row["state"], row["attempts"], row["outcome"]) for row in rows}


async def test_an_alert_is_sent_once_on_every_channel(
    store: PostgresAlertStore, audit_database: AuditDatabase, tmp_path: Path
) -> None:
    held, receiver = held_rules(tmp_path), Receiver(200)
    deletion = action(action_type="delete", resource_id="r", actor_email="<a@example.com>")
    [alert] = await raised(held, [deletion, deletion], store)
    run = DeliveryRun(store, held, receiver)
    await run.until_idle()
    hook, chat = sorted(receiver.requests, key=lambda request: "hooks" in request.url.host)
    payload = json.loads(hook.content)
    assert payload == run.printed[0]
    assert (payload["id"], payload["rule"], payload["record"]["id"]) == (
        alert.id.hex,
        "deletions",
        deletion.id.hex,
    )
    signed = hmac.new(b"s3cret-of-the-hook", b"1700000000." + hook.content, hashlib.sha256).hexdigest()
    assert hook.headers[SIGNATURE_HEADER] == f"v1={signed}"
    assert hook.headers[TIMESTAMP_HEADER] == "1700000000"
    assert hook.headers["idempotency-key"] == f"{alert.id.hex}-hook"
    assert "&lt;a@example.com&gt;" in json.loads(chat.content)["text"]
    assert len(receiver.requests) == 2
    assert {state for state, *_ in (await states(audit_database)).values()} == {"delivered"}


@pytest.mark.parametrize(
    ("statuses", "ending"),
    [((503, 200), ("delivered", 2)), ((503,), ("dead", 3)), ((302,), ("dead", 3)), ((410,), ("dead", 1))],
)
async def test_failed_deliveries_are_retried_within_bounds(
    store: PostgresAlertStore,
    audit_database: AuditDatabase,
    tmp_path: Path,
    statuses: tuple[int, ...],
    ending: tuple[str, int],
) -> None:
    held, receiver = held_rules(tmp_path), Receiver(*statuses)
    held = RuleSet(held.rules, {"hook": held.channels["hook"]}, held.digest)
    await raised(held, [action(action_type="delete")], store)
    await DeliveryRun(store, held, receiver).until_idle()
    found = await states(audit_database)
    assert found["hook"][:2] == ending
    assert found["chat"][0] == "dead"  # there is no such channel any more
    assert len({request.headers["idempotency-key"] for request in receiver.requests}) == 1


NOW_S = 1_700_000_000.5  # of the clock that `DeliveryRun` gives to channels


class OneBusyChannel:
    """The hook responds with 429 while `is_busy`; the chat accepts everything."""

    def __init__(self, retry_after: str) -> None:
        self.is_busy = True
        self.retry_after = retry_after
        self.asked: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.host.partition(".")[0])
        if self.is_busy and self.asked[-1] == "alerts":
            return httpx.Response(429, headers={"retry-after": self.retry_after})
        return httpx.Response(200)


async def due_again(database: AuditDatabase) -> None:
    """Let the time pass after which postponed deliveries are due."""
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        await connection.execute("UPDATE auditap.alert_deliveries SET due_at = now() WHERE state = 'due'")
    finally:
        await connection.close()


@pytest.mark.parametrize("retry_after", ["60", formatdate(NOW_S + 60, usegmt=True)])
async def test_a_channel_that_asks_to_wait_gets_nothing_for_that_long_and_no_attempt_counts(
    store: PostgresAlertStore, audit_database: AuditDatabase, tmp_path: Path, retry_after: str
) -> None:
    held, receiver = held_rules(tmp_path), OneBusyChannel(retry_after)
    alerts = 30
    await raised(held, [action(action_type="delete", resource_id=str(n)) for n in range(alerts)], store)
    run = DeliveryRun(store, held, receiver)
    while await run.deliverer.deliver():
        pass
    at_first = receiver.asked.count("alerts")
    assert 0 < at_first <= LIMITS.in_flight_max
    assert receiver.asked.count("hooks") == len(run.printed) == alerts
    # Longer than one delivery's own pause, as after alerts that are raised meanwhile.
    await due_again(audit_database)
    run.clock.now_s += 58
    assert await run.deliverer.deliver() == 0
    assert receiver.asked.count("alerts") == at_first
    # The wait is over: one alert shows that the channel is still busy, which is no attempt either.
    run.clock.now_s += 3
    for _ in range(2 * LIMITS.attempts_max):
        await due_again(audit_database)
        before = receiver.asked.count("alerts")
        assert await run.deliverer.deliver() > 1
        assert receiver.asked.count("alerts") == before + 1
        run.clock.now_s += 61
    assert (await states(audit_database))["hook"][:2] == ("due", 0)
    receiver.is_busy = False
    while {state for state, *_ in (await states(audit_database)).values()} != {"delivered"}:
        await due_again(audit_database)
        await run.deliverer.deliver()
    await run.client.aclose()


async def test_what_a_channel_may_ask_for_is_bounded(store: PostgresAlertStore, tmp_path: Path) -> None:
    held, receiver = held_rules(tmp_path), OneBusyChannel("999999999")
    await raised(held, [action(action_type="delete")], store)
    run = DeliveryRun(store, held, receiver)
    await run.deliverer.deliver()
    run.clock.now_s += LIMITS.asked_wait_ms_max / 1000
    assert await store.lease(10, 1) == []
    await raised(held, [action(action_type="delete", resource_id="another")], store)
    await run.deliverer.deliver()
    assert receiver.asked.count("alerts") == 2
    await run.client.aclose()


async def test_a_channel_that_waits_is_left_out_of_a_lease(store: PostgresAlertStore, tmp_path: Path) -> None:
    await raised(held_rules(tmp_path), [action(action_type="delete")], store)
    assert {each.channel for each in await store.lease(10, 1, ["hook", "out"])} == {"chat"}


async def test_a_leased_delivery_is_not_leased_again(store: PostgresAlertStore, tmp_path: Path) -> None:
    held = held_rules(tmp_path)
    await raised(held, [action(action_type="delete", resource_id=str(number)) for number in range(4)], store)
    leased = await asyncio.gather(*(store.lease(4, 60_000) for _ in range(4)))
    leases = [(each.alert_id, each.channel) for one in leased for each in one]
    assert len(leases) == len(set(leases)) == 12
    assert await store.lease(100, 60_000) == []


async def test_an_expired_lease_is_delivered_again(store: PostgresAlertStore, tmp_path: Path) -> None:
    held, receiver = held_rules(tmp_path), Receiver(200)
    await raised(held, [action(action_type="delete")], store)
    assert len(await store.lease(10, 1)) == 3  # leased by a process that then crashes
    await asyncio.sleep(0.05)
    await DeliveryRun(store, held, receiver).until_idle()
    assert len(receiver.requests) == 2


@pytest.mark.parametrize("url", ["http://alerts.example.com/in", "https://[bad"])
async def test_an_unusable_url_is_never_called(
    store: PostgresAlertStore, audit_database: AuditDatabase, tmp_path: Path, url: str
) -> None:
    held, receiver = held_rules(tmp_path, url), Receiver(200)
    await raised(held, [action(action_type="delete")], store)
    await DeliveryRun(store, held, receiver).until_idle()
    assert (await states(audit_database))["hook"][0] == "dead"
    assert [request.url.host for request in receiver.requests] == ["hooks.example.com"]


def test_slack_text_escapes_markup_and_control_characters() -> None:
    payload = {
        "id": "1",
        "severity": "high",
        "title": "<!channel> \x1b[31m",
        "account": {"id": None},
        "records": 1,
        "window": {"start": "now"},
        "record": {},
    }
    assert "<" not in slack_text(payload)
    assert "\x1b" not in slack_text(payload)


@pytest.mark.parametrize("content", ["", "fifteen-letters"])
def test_a_webhook_is_not_signed_with_a_key_that_is_empty_or_short(tmp_path: Path, content: str) -> None:
    held = held_rules(tmp_path)
    (tmp_path / "key").write_text(content)
    reason = why_unusable(held.channels["hook"])
    assert reason is not None
    assert reason.endswith("key cannot be read or is empty, or has fewer than 16 characters")
