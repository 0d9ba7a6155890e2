"""Alerts and their deliveries, and the stored records that rules are tested on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from auditap.database.connection import Connection
from schemas.identity import first_id_at
from schemas.record import Record
from schemas.sql import query


async def list_alerts(
    connection: Connection, account: str | None, since_ms: int, alerts_max: int, *, open_only: bool
) -> Sequence[Mapping[str, Any]]:
    """Return at most `alerts_max` alerts whose window begins at or after `since_ms` (Unix ms), newest first.

    `account` None: of all accounts. `open_only`: without those acknowledged.
    """
    return [
        dict(row)
        for row in await connection.fetch(query("list_alerts"), account, since_ms, alerts_max, open_only)
    ]


class Acknowledged(NamedTuple):
    """Who acknowledged an alert, when, and whether it was this call."""

    by: str
    at: datetime
    is_new: bool


async def acknowledge_alert(
    connection: Connection, alert_id: UUID, who: str, note: str | None
) -> Acknowledged | None:
    """Acknowledge an alert. The first acknowledgement stays. Return None where there is no such alert."""
    row = await connection.fetchrow(
        "UPDATE auditap.alerts SET acknowledged_at = now(), acknowledged_by = $2, note = $3"
        " WHERE id = $1 AND acknowledged_at IS NULL RETURNING acknowledged_by, acknowledged_at",
        alert_id,
        who,
        note,
    )
    if row is not None:
        return Acknowledged(row["acknowledged_by"], row["acknowledged_at"], is_new=True)
    row = await connection.fetchrow(
        "SELECT acknowledged_by, acknowledged_at FROM auditap.alerts WHERE id = $1", alert_id
    )
    return None if row is None else Acknowledged(row["acknowledged_by"], row["acknowledged_at"], is_new=False)


class DeliveryFilter(NamedTuple):
    """Which deliveries to select; None and empty select all."""

    state: str | None = None
    alert_ids: Sequence[UUID] = ()
    channels: Sequence[str] = ()
    since_ms: int = 0
    """Only of alerts whose window begins at or after this time (Unix ms)."""


async def list_deliveries(
    connection: Connection, wanted: DeliveryFilter, deliveries_max: int
) -> Sequence[Mapping[str, Any]]:
    """Return deliveries of alerts, newest alert first: alert_id, channel, state, attempts, due_at, outcome, rule, title."""
    rows = await connection.fetch(query("list_deliveries"), *_selecting(wanted), deliveries_max)
    return [dict(row) for row in rows]


async def retry_deliveries(connection: Connection, wanted: DeliveryFilter) -> int:
    """Make dead deliveries due again, with all their attempts. Return how many; others are left alone."""
    dead = wanted._replace(state="dead")
    return len(await connection.fetch(query("retry_deliveries"), *_selecting(dead)))


def _selecting(wanted: DeliveryFilter) -> tuple[object, ...]:
    return (
        wanted.state,
        list(wanted.alert_ids) or None,
        list(wanted.channels) or None,
        wanted.since_ms,
    )


async def records_between(
    connection: Connection, account: str | None, since_ms: int, before_ms: int
) -> AsyncIterator[Record]:
    """Yield the stored records from `since_ms` to before `before_ms` (Unix ms), with their names, in the order of their ids.

    `account` None: of all. What only the store knows (the digest) is left empty.
    """
    low, high = first_id_at(since_ms), first_id_at(before_ms)
    async with connection.transaction(readonly=True):
        async for row in connection.cursor(query("backtest_records"), low, high, account, prefetch=1_000):
            address = row["actor_ip_address"]
            yield Record(
                **dict(row)
                | {"actor_ip_address": None if address is None else str(address), "event_digest": b""}
            )
