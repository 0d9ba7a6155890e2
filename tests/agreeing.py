"""A redactor that compares its fast path with the reference on every pair."""

from __future__ import annotations

from redactor.pipeline.events import bare_event
from redactor.pipeline.redactor import Redactor
from schemas.capture import Capture
from schemas.event import encode_event


class AgreeingRedactor(Redactor):
    """Fails unless the fast path gives the reference's bytes."""

    def redact(self, capture: Capture, event_id: str) -> bytes | None:
        value = super().redact(capture, event_id)
        try:
            expected = self.redact_by_reference(capture, event_id)
        except Exception:  # noqa: BLE001  what fails is recorded bare on either path
            expected = encode_event(bare_event(capture, event_id))
        assert value == expected
        return value
