"""What goes onto the log of captures that become no event."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from auditap.runtime.redacting_sink import RedactingSink
from gateway_tap.ports import IdentifiedCapture
from schemas.capture import Capture, CapturedRequest, CapturedResponse, TapPosition
from schemas.event import EncodedEvent
from schemas.heartbeat import DroppedRange, Heartbeat, TapEpoch, UnrecordedNumbers, decode_report
from schemas.metric_defs import Metrics


class Publisher:
    def __init__(self) -> None:
        self.published: list[EncodedEvent] = []

    async def publish(self, events: Sequence[EncodedEvent]) -> None:
        self.published += events


class ExcludesDeletes:
    def redact(self, capture: Capture, event_id: str) -> bytes | None:
        return None if capture.request.method == "DELETE" else b"{}"


def captured(method: str, seq: int | None) -> IdentifiedCapture:
    tap = None if seq is None else TapPosition("t-1", 7, seq)
    return IdentifiedCapture("0" * 32, Capture(CapturedRequest(method, "/"), CapturedResponse(200), tap=tap))


def sink_to(publisher: Any) -> RedactingSink:
    redactor: Any = ExcludesDeletes()
    return RedactingSink(lambda: redactor, publisher, Metrics())


async def test_numbers_without_an_event_are_reported_beside_the_events() -> None:
    publisher = Publisher()
    captures = [captured("DELETE", 4), captured("PUT", 5), captured("DELETE", 3), captured("DELETE", None)]
    refused = [TapPosition("t-1", 7, 9), TapPosition("t-1", None, 10), TapPosition("t-1", 7, 1 << 60)]
    await sink_to(publisher).accept(captures, 1_000, refused)
    event, *reports = publisher.published
    assert event.value == b"{}"
    assert [decode_report(each.value).count for each in reports] == [
        UnrecordedNumbers(TapEpoch("t-1", 7), excluded=((3, 4),)),
        UnrecordedNumbers(TapEpoch("t-1", 7), dropped=(DroppedRange(9, 9, "refused", 1_000, 1_000),)),
    ]
    assert {each.received_ms for each in publisher.published} == {1_000}


async def test_every_report_has_the_id_of_the_collector_s_run() -> None:
    publisher = Publisher()
    sinks = [sink_to(publisher), sink_to(publisher)]
    for sink in sinks:
        await sink.accept([captured("DELETE", 4)], 1_000)
        await sink.report([Heartbeat(TapEpoch("t-1", 7), 1, 2, 2, 3, 4, 2, 30_000)], 1_000)
        reporting = asyncio.create_task(sink.keep_reporting(60_000))
        await asyncio.sleep(0)
        reporting.cancel()
    collectors = [decode_report(each.value).collector for each in publisher.published]
    assert collectors == [collectors[0]] * 3 + [collectors[-1]] * 3
    assert collectors[0] != collectors[-1]
    assert None not in collectors


async def test_more_ranges_than_a_report_takes_become_more_reports() -> None:
    publisher = Publisher()
    await sink_to(publisher).accept([], 1_000, [TapPosition("t-1", 7, 2 * n + 1) for n in range(10_001)])
    counts = [decode_report(each.value).count for each in publisher.published]
    assert [len(count.dropped) for count in counts if count] == [10_000, 1]


async def test_others_get_their_turn_while_a_batch_is_redacted() -> None:
    turns, redacted_in = 0, []

    async def neighbour() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    class Slow:
        def redact(self, _capture: Capture, _event_id: str) -> bytes | None:
            until_s = time.perf_counter() + 0.001
            while time.perf_counter() < until_s:
                pass
            redacted_in.append(turns)
            return b"{}"

    redactor: Any = Slow()
    publisher: Any = Publisher()
    beside = asyncio.create_task(neighbour())
    await RedactingSink(lambda: redactor, publisher, Metrics()).accept(
        [captured("PUT", None) for _ in range(100)], 1_000
    )
    beside.cancel()
    assert len(publisher.published) == 100
    # Every few captures, however long they take.
    assert max(Counter(redacted_in).values()) <= 5
