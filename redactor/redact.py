"""From a captured pair to one audit event: the redactor's public face."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from redactor.config import RedactionConfig
from redactor.document import LoadedDocument, load_document
from schemas.capture import Capture
from schemas.event import (
    Action,
    AuditEvent,
    BodyReason,
    BodyReceipt,
    RawRequest,
    Receipt,
    UnmatchedReason,
    encode_event,
)
from schemas.identity import id_ms, rfc3339_ms

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_ACTION_TYPES = {"POST": "create", "PUT": "update", "PATCH": "update", "DELETE": "delete"}
_NO_BODY = BodyReceipt(reason=BodyReason.NO_OPERATION)


class Redactor:
    """Keeps of a pair exactly what the documents mark and the configuration allows. Pure; never raises on input."""

    def __init__(
        self,
        documents: Sequence[LoadedDocument],
        config: RedactionConfig,
        on_failure: Callable[[], None] | None = None,
    ) -> None:
        self._documents = tuple(documents)
        self._config = config
        self._on_failure = on_failure

    @classmethod
    def from_config(cls, config: RedactionConfig, on_failure: Callable[[], None] | None = None) -> Redactor:
        """Load the configured documents. Raises StartupError, one sentence, for one that cannot be read."""
        return cls([load_document(each) for each in config.documents], config, on_failure)

    def redact(self, capture: Capture, event_id: str) -> bytes | None:
        """Return the audit event's JSON, or None where the operation is excluded by configuration."""
        return encode_event(bare_event(capture, event_id))


def bare_event(capture: Capture, event_id: str) -> AuditEvent:
    """Return what can be said of a pair that nothing was read from: method, status, result and time."""
    method = capture.request.method if capture.request.method in METHODS else "OTHER"
    status = capture.response.status
    return AuditEvent(
        id=event_id,
        action=Action(
            result="success" if status < 400 else "failure",
            time=rfc3339_ms(id_ms(event_id)),
            type=_ACTION_TYPES.get(method, "view"),
        ),
        raw=RawRequest(method=method, status_code=status),
        receipt=Receipt(unmatched=UnmatchedReason.NO_PATH, request=_NO_BODY, response=_NO_BODY),
    )
