"""JSON texts into heartbeats. A text that is not a heartbeat is refused alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from gateway_tap.body import Refusal, RejectedBody, Rejection, split_texts
from gateway_tap.limits import CAPTURES_MAX
from schemas.errors import RefusalReason, RefusedCapture
from schemas.heartbeat import Heartbeat, decode_heartbeat

_HEARTBEAT_BYTES_MAX: Final = 256 * 1024  # 1,000 dropped ranges, the most there may be, take half of that
_HEARTBEATS_MAX: Final = 100  # a tap sends its own, and one for each crashed run it knows of


@dataclass(frozen=True)
class HeartbeatBatch:
    """What one body holds, each item with the index of its text."""

    heartbeats: list[tuple[int, Heartbeat]] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


def read_heartbeats(body: bytes, content_type: str) -> HeartbeatBatch:
    """Return the heartbeats in an inflated body of this `content_type` (a header value). Raises RejectedBody."""
    batch = HeartbeatBatch()
    # Split within the bound for captures: a heartbeat may hold a thousand ranges, and so thousands of commas.
    for index, text in enumerate(split_texts(body, content_type, CAPTURES_MAX)):
        if index == _HEARTBEATS_MAX:
            raise RejectedBody(Rejection.CAPTURES)
        if len(text) > _HEARTBEAT_BYTES_MAX:
            batch.refusals.append(Refusal(index, RefusalReason.TOO_LARGE, ""))
            continue
        try:
            batch.heartbeats.append((index, decode_heartbeat(text)))
        except RefusedCapture as refused:
            batch.refusals.append(Refusal(index, refused.reason, refused.path))
    return batch
