"""Every error that crosses a boundary between parts.

AuditapError
├── StartupError          a wrong setting, document or database: ends the process with its one sentence
├── PermanentError        the same input fails again: refused or dead-lettered, never retried
│   ├── EventsTooLarge    events that the log will not take in any batch
│   ├── RefusedCapture    a line a tap sent that is not a capture
│   └── UnprocessableEvent  an event that can never become a record
└── RetryableError        the same input may succeed later: back off in place
    └── NotDurable        a batch could not be made durable; the sender keeps it and sends it again

No message, attribute or cause of these holds a value taken from traffic: raise them `from None`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class AuditapError(Exception):
    """Base of all errors that auditap raises on purpose."""


class StartupError(AuditapError):
    """The process cannot start. The message is one sentence that says what to do."""


class RefusalReason(StrEnum):
    """Why the collector refused a line; a closed list, on which taps may rely."""

    MALFORMED = "malformed"
    """Not JSON in UTF-8, or not an object."""
    INVALID = "invalid"
    """JSON, but not a capture; the response has the schema path."""
    TOO_LARGE = "too_large"
    """Longer than the limit for one capture."""
    TAP_NOT_ALLOWED = "tap_not_allowed"
    """The token may not send for this tap, or only for named ones, and the capture names none (`tap.id: required`)."""


class DeadLetterReason(StrEnum):
    """Why an event can never become a record."""

    MALFORMED = "malformed"
    """Not an audit event: not JSON, or a field is missing or of another type."""
    ID_CONFLICT = "id_conflict"
    """Another event with the same id is stored already."""
    EXPIRED = "expired"
    """Older than the retention period."""
    CLOCK_AHEAD = "clock_ahead"
    """Dated too far in the future. No longer used: such events are records now, and older dead letters become records when retried."""
    UNSTORABLE = "unstorable"
    """The database refuses the row by itself, whatever the batch."""
    TOO_LARGE = "too_large"
    """The log refused the event because of its size; this one is without its bodies."""


class PermanentError(AuditapError):
    """The same input would fail again."""


class EventsTooLarge(PermanentError):
    """The log refuses the events with these ids because of their size. The others of the batch may be sent again."""

    def __init__(self, ids: frozenset[str]) -> None:
        super().__init__(f"{len(ids)} events are larger than the log accepts")
        self.ids = ids


_REFUSALS: Mapping[str, str] = {
    RefusalReason.MALFORMED: "not JSON",
    RefusalReason.INVALID: "not a capture",
    RefusalReason.TOO_LARGE: "longer than a capture may be",
    RefusalReason.TAP_NOT_ALLOWED: "the token may not send for this tap",
}


def refusal_text(reason: str, path: str = "") -> str:
    """Return in words why a line is refused; a reason that is not in the closed list stands as it is."""
    words = _REFUSALS.get(reason, reason)
    return f"{words} ({path})" if path else words


class RefusedCapture(PermanentError):
    """One line is refused. `path` is a schema path, so it names declared fields only."""

    def __init__(self, reason: RefusalReason, path: str = "") -> None:
        super().__init__(refusal_text(reason, path))
        self.reason = reason
        self.path = path


class UnprocessableEvent(PermanentError):
    """One event must be dead-lettered; `reason` is from the closed list, `path` names declared fields only."""

    def __init__(self, reason: DeadLetterReason, path: str = "") -> None:
        super().__init__(f"{reason}: {path}" if path else str(reason))
        self.reason = reason
        self.path = path


class RetryableError(AuditapError):
    """The same input may succeed later. The message names the part that is unavailable, and nothing else.

    `asked_to_wait_s`: for how long the other side asked to wait; None if it did not.
    """

    def __init__(self, message: str, *, asked_to_wait_s: float | None = None) -> None:
        super().__init__(message)
        self.asked_to_wait_s = asked_to_wait_s


class NotDurable(RetryableError):
    """No capture of the batch counts as accepted. `retry_after_s` is a hint for the sender."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
