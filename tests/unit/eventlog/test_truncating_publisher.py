from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec
import pytest

from eventlog.truncating_publisher import TruncatingPublisher
from schemas.contracts import validator
from schemas.errors import EventsTooLarge, NotDurable
from schemas.event import (
    Action,
    BodyReceipt,
    EncodedEvent,
    RawRequest,
    Receipt,
    Resource,
    Tap,
    decode_event,
    encode_event,
    event_digest,
)
from schemas.identity import new_id
from schemas.metric_defs import Metrics
from tests.fakes.event_log import MemoryEventLog, MemoryPublisher
from tests.records import event

NOW = 1_769_192_714_749


class NarrowPublisher(MemoryPublisher):
    """A log that takes no event above a size, and says so of one at a time."""

    def __init__(self, log: MemoryEventLog, event_bytes_max: int) -> None:
        super().__init__(log)
        self._event_bytes_max = event_bytes_max

    async def publish(self, events: Sequence[EncodedEvent]) -> None:
        for each in events:
            if len(each.value) > self._event_bytes_max:
                raise EventsTooLarge(frozenset({each.id}))
        await super().publish(events)


async def published(event_bytes_max: int, *values: bytes) -> list[bytes]:
    log = MemoryEventLog(partitions=1)
    publisher = TruncatingPublisher(NarrowPublisher(log, event_bytes_max), Metrics())
    await publisher.start()
    await publisher.publish([EncodedEvent(json.loads(value)["id"], value, NOW) for value in values])
    await publisher.stop()
    return [found.value for partition in log.partitions.values() for found in partition]


def large(*, request: int = 5_000, uri: int = 10) -> bytes:
    body = msgspec.Raw(b'"' + b"x" * request + b'"')
    return encode_event(
        event(
            NOW,
            raw=RawRequest(method="PUT", uri="/" + "u" * uri),
            resource=Resource("1", "things", request=body),
            receipt=Receipt(document="d", request=BodyReceipt(kept=3), response=BodyReceipt(kept=0)),
            tap=Tap("gw", 1, 2),
        )
    )


async def test_events_that_fit_are_not_changed() -> None:
    one, other = large(), large()
    assert await published(10_000, one, other) == [one, other]


async def test_an_event_too_large_loses_its_bodies_and_is_marked() -> None:
    small, one, other = encode_event(event(NOW)), large(), large(request=6_000)
    first, second, third = await published(1_000, small, one, other)

    assert first == small
    assert third != second
    cut = decode_event(second)
    assert cut.cut is not None
    assert (cut.cut.size_bytes, cut.cut.digest) == (len(one), event_digest(one).hex())
    assert cut.resource == Resource("1", "things")
    assert msgspec.to_builtins(cut.receipt.request) == {"reason": "too_large"}
    assert cut.receipt.response == BodyReceipt(kept=0)
    assert (cut.raw.uri, cut.tap) == ("/uuuuuuuuuu", Tap("gw", 1, 2))
    validator("audit_event").validate(json.loads(second))


@pytest.mark.parametrize("request_bytes", [5_000, 0])
async def test_an_event_still_too_large_keeps_only_what_identifies_it(request_bytes: int) -> None:
    one = large(request=request_bytes, uri=5_000)
    (bare,) = await published(400, one)

    found = decode_event(bare)
    assert found.id == decode_event(one).id
    assert found.tap == Tap("gw", 1, 2)
    assert found.raw == RawRequest()
    assert found.cut is not None
    assert found.cut.digest == event_digest(one).hex()


async def test_a_log_that_takes_nothing_is_not_durable() -> None:
    with pytest.raises(NotDurable):
        await published(10, large())


async def test_a_value_that_is_no_event_cannot_be_truncated() -> None:
    with pytest.raises(NotDurable):
        await published(10, b'{"id": "%s", "other": 1}' % new_id(NOW).encode())


async def test_a_description_is_left_out_last() -> None:
    one = encode_event(event(NOW, action=Action("success", "t", "view", "d" * 5_000)))
    (bare,) = await published(400, one)
    assert decode_event(bare).action == Action("success", "t", "view")
