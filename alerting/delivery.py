"""Delivers alerts: leases what is due from the outbox, sends it, and stores the outcome. Failures are retried."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

import structlog

from alerting.ports import Channel, DeliveryFailed, DueDelivery, Outbox
from schemas.errors import RetryableError
from schemas.metric_defs import Metrics

log = structlog.get_logger("alerting.delivery")


# A waiting alert is sent at most this much later than it could be; an idle poll is one indexed query.
_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class DeliveryLimits:
    """Bounds of delivering alerts, none of which is a setting."""

    # With the waits below about half an hour; later an alert is no news, and `auditap alerts deliveries retry` sends it.
    attempts_max: int = 12
    # Each wait is twice the one before.
    retry_wait_ms_initial: int = 1_000
    retry_wait_ms_max: int = 600_000
    # Common receivers of webhooks allow themselves as much.
    timeout_ms: int = 10_000
    # However long a channel asks to wait: later, an alert is no news.
    asked_wait_ms_max: int = 3_600_000
    # All channels together; enough that one slow channel leaves room for the others.
    in_flight_max: int = 16

    @property
    def lease_ms(self) -> int:
        """How long a delivery is leased: longer than an attempt can take."""
        return 3 * self.timeout_ms + 10_000


class Deliverer:
    """Sends due alerts. `find_channel` returns the channel of a name, None where the rules have none.

    A channel that asks to wait gets nothing in that time, and then one alert to see whether it accepts again. What is
    not accepted because of that is postponed, and counts as no attempt. `clock_s` returns monotonic seconds.
    """

    def __init__(
        self,
        outbox: Outbox,
        find_channel: Callable[[str], Channel | None],
        limits: DeliveryLimits,
        metrics: Metrics,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outbox = outbox
        self._find_channel = find_channel
        self._limits = limits
        self._metrics = metrics
        self._clock_s = clock_s
        self._waits_until_s: dict[str, float] = {}
        """Until when a channel asked to wait. Forgotten once it has accepted an alert after that."""

    async def run(self) -> None:
        """Deliver until cancelled. What is cancelled is sent again later: at least once, under the same key."""
        while True:
            try:
                count = await self.deliver()
            except RetryableError as away:
                log.warning("deliveries_deferred", cause=str(away))
                count = 0
            if not count:
                await asyncio.sleep(_POLL_S)

    async def deliver(self) -> int:
        """Attempt the deliveries that are due, at most `in_flight_max`; return their number. Raises RetryableError."""
        now_s = self._clock_s()
        waiting = [name for name, until_s in self._waits_until_s.items() if now_s < until_s]
        due = await self._outbox.lease(self._limits.in_flight_max, self._limits.lease_ms, waiting)
        # With the exceptions, so that all attempts have ended before one of them is raised.
        results = await asyncio.gather(*self._steps(due), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return len(due)

    def _steps(self, due: Sequence[DueDelivery]) -> Iterator[Awaitable[None]]:
        """Yield what to do with each delivery: attempt it, unless its channel has waited and gets one alert first."""
        tried: set[str] = set()
        for delivery in due:
            if delivery.channel in self._waits_until_s and delivery.channel in tried:
                yield self._postpone(delivery, "the channel asked to wait", _POLL_S)
            else:
                tried.add(delivery.channel)
                yield self._attempt(delivery)

    async def _attempt(self, delivery: DueDelivery) -> None:
        channel = self._find_channel(delivery.channel)
        if channel is None:
            await self._failed(delivery, "there is no such channel any more", final=True)
            return
        try:
            # httpx's own timeout is for each step of a request; this one is for all of them.
            async with asyncio.timeout(2 * self._limits.timeout_ms / 1000):
                await channel.send(delivery)
        except DeliveryFailed as failed:
            if failed.asked_to_wait_s is None:
                await self._failed(delivery, failed.outcome, final=failed.final)
            else:
                await self._wait_for_channel(delivery, failed.outcome, failed.asked_to_wait_s)
        except TimeoutError:
            await self._failed(delivery, "no answer in time", final=False)
        else:
            self._waits_until_s.pop(delivery.channel, None)
            await self._outbox.delivered(delivery)
            self._metrics.alert_deliveries.labels("delivered").inc()

    async def _wait_for_channel(self, delivery: DueDelivery, outcome: str, asked_to_wait_s: float) -> None:
        # At least as long as the first pause after a failure, so that `Retry-After: 0` cannot make a busy loop.
        least_s = self._limits.retry_wait_ms_initial / 1000
        wait_s = min(max(asked_to_wait_s, least_s), self._limits.asked_wait_ms_max / 1000)
        until_s = self._clock_s() + wait_s
        self._waits_until_s[delivery.channel] = max(until_s, self._waits_until_s.get(delivery.channel, 0.0))
        await self._postpone(delivery, outcome, wait_s)
        log.warning("channel_asked_to_wait", channel=delivery.channel, outcome=outcome, wait_s=round(wait_s))

    async def _postpone(self, delivery: DueDelivery, outcome: str, wait_s: float) -> None:
        await self._outbox.postponed(delivery, outcome, int(wait_s * 1000))
        self._metrics.alert_deliveries.labels("postponed").inc()

    async def _failed(self, delivery: DueDelivery, outcome: str, *, final: bool) -> None:
        is_dead = final or delivery.attempts >= self._limits.attempts_max
        wait_ms = min(
            self._limits.retry_wait_ms_initial << min(delivery.attempts - 1, 30),
            self._limits.retry_wait_ms_max,
        )
        await self._outbox.failed(delivery, outcome, None if is_dead else wait_ms)
        self._metrics.alert_deliveries.labels("dead" if is_dead else "retried").inc()
        log.log(
            logging.ERROR if is_dead else logging.WARNING,
            "alert_not_delivered",
            channel=delivery.channel,
            outcome=outcome,
            attempt=delivery.attempts,
            dead=is_dead,
        )
