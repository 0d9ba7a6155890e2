"""Heartbeats of taps: the bytes of one POST body → heartbeats, and for each text that is none a reason."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway_tap.intake import IntakeLimits, Refusal, Unusable, UnusableBatch, texts_of
from schemas.errors import RefusalReason, RefusedCapture
from schemas.heartbeat import Heartbeat, decode_heartbeat

HEARTBEAT_BYTES_MAX = 256 * 1024
HEARTBEATS_MAX = 100


@dataclass(frozen=True)
class HeartbeatBatch:
    """What one body held, each with its index."""

    heartbeats: list[tuple[int, Heartbeat]] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


def read_heartbeats(body: bytes, content_type: str, limits: IntakeLimits) -> HeartbeatBatch:
    """Return what an inflated body holds, NDJSON or JSON by `content_type`. Raises UnusableBatch."""
    batch = HeartbeatBatch()
    for index, text in enumerate(texts_of(body, content_type, limits)):
        if index == HEARTBEATS_MAX:
            raise UnusableBatch(Unusable.CAPTURES)
        if len(text) > HEARTBEAT_BYTES_MAX:
            batch.refusals.append(Refusal(index, RefusalReason.TOO_LARGE, ""))
            continue
        try:
            batch.heartbeats.append((index, decode_heartbeat(text)))
        except RefusedCapture as refused:
            batch.refusals.append(Refusal(index, refused.reason, refused.path))
    return batch
