"""Telling alerts: what is due is taken from the outbox, told, and noted; what fails is tried again, within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from schemas.errors import RetryableError
from schemas.metric_defs import Metrics
from watcher.ports import Channel, DueDelivery, Outbox, Untold

log = structlog.get_logger("watcher.deliver")


@dataclass(frozen=True, slots=True)
class DeliveryLimits:
    """Bounds of telling alerts; every one is a setting."""

    attempts_max: int = 12
    """How often one alert is tried on one channel before it is dead."""
    retry_wait_ms_initial: int = 1_000
    retry_wait_ms_max: int = 600_000
    """Waits double from the first to this."""
    timeout_ms: int = 10_000
    in_flight_max: int = 16
    poll_ms: int = 500

    @property
    def lease_ms(self) -> int:
        """How long a delivery is one's own: longer than telling may take."""
        return 3 * self.timeout_ms + 10_000


class Deliverer:
    """Tells what is due, on the channels that `channel` finds by name; None where there is no such channel any more."""

    def __init__(
        self,
        outbox: Outbox,
        channel: Callable[[str], Channel | None],
        limits: DeliveryLimits,
        metrics: Metrics,
    ) -> None:
        self._outbox = outbox
        self._channel = channel
        self._limits = limits
        self._metrics = metrics

    async def run(self) -> None:
        """Tell until cancelled. What is being told then is told again: at least once, under the same key."""
        while True:
            try:
                told = await self.deliver()
            except RetryableError as away:
                log.warning("deliveries_deferred", cause=str(away))
                told = 0
            if not told:
                await asyncio.sleep(self._limits.poll_ms / 1000)

    async def deliver(self) -> int:
        """Tell what is due now, a bounded number at once; return how many there were. Raises RetryableError."""
        due = await self._outbox.take(self._limits.in_flight_max, self._limits.lease_ms)
        results = await asyncio.gather(*map(self._tell, due), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return len(due)

    async def _tell(self, delivery: DueDelivery) -> None:
        channel = self._channel(delivery.channel)
        try:
            if channel is None:
                raise Untold("there is no such channel any more", final=True)  # noqa: TRY301
            async with asyncio.timeout(2 * self._limits.timeout_ms / 1000):
                await channel.tell(delivery)
        except Untold as untold:
            await self._failed(delivery, untold.outcome, final=untold.final)
        except TimeoutError:
            await self._failed(delivery, "no answer in time", final=False)
        else:
            await self._outbox.delivered(delivery)
            self._metrics.alert_deliveries.labels("delivered").inc()

    async def _failed(self, delivery: DueDelivery, outcome: str, *, final: bool) -> None:
        is_dead = final or delivery.attempts >= self._limits.attempts_max
        wait_ms = min(
            self._limits.retry_wait_ms_initial << min(delivery.attempts - 1, 30),
            self._limits.retry_wait_ms_max,
        )
        await self._outbox.failed(delivery, outcome, None if is_dead else wait_ms)
        self._metrics.alert_deliveries.labels("dead" if is_dead else "retried").inc()
        log.log(
            40 if is_dead else 30,
            "alert_not_delivered",
            channel=delivery.channel,
            outcome=outcome,
            attempt=delivery.attempts,
            dead=is_dead,
        )
