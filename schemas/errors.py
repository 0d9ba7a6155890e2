"""Every error that crosses a boundary between parts.

AuditapError
├── StartupError          a wrong setting, document or database: ends the process with its one sentence
├── PermanentError        the same input fails again: refused or buried, never retried
│   ├── EventsTooLarge    events that the log will not take in any batch
│   ├── RefusedCapture    a line a tap sent that is not a capture
│   └── BuriedEvent       an event that can never become a record
└── RetryableError        the same input may succeed later: back off in place
    └── NotDurable        a batch could not be made durable; the sender keeps it and sends it again

No message, attribute or cause of these holds a value taken from traffic: raise them `from None`.
"""

from __future__ import annotations

from enum import StrEnum


class AuditapError(Exception):
    """Base of all errors that auditap raises on purpose."""


class StartupError(AuditapError):
    """The process cannot start. The message is one sentence that says what to do."""


class RefusalReason(StrEnum):
    """Why a line sent to the collector was not taken; the closed list that taps may rely on."""

    MALFORMED = "malformed"
    """Not JSON in UTF-8, or not an object."""
    INVALID = "invalid"
    """JSON, but not a capture; the answer names the schema path."""
    TOO_LARGE = "too_large"
    """Longer than the limit for one capture."""
    TAP_NOT_ALLOWED = "tap_not_allowed"
    """The token presented is bound to other tap ids."""


class DeadLetterReason(StrEnum):
    """Why an event can never become a record."""

    MALFORMED = "malformed"
    """Not an audit event: not JSON, or a field is missing or of another type."""
    ID_CONFLICT = "id_conflict"
    """The id is taken by a different event."""
    EXPIRED = "expired"
    """Older than the retention period."""
    CLOCK_AHEAD = "clock_ahead"
    """Dated too far in the future. Letters of old: such events are records now, and these become some when retried."""
    UNSTORABLE = "unstorable"
    """The database refuses the row by itself, whatever the batch."""
    TOO_LARGE = "too_large"
    """The log did not take the event whole: the bodies are not in it."""


class PermanentError(AuditapError):
    """The same input would fail again."""


class EventsTooLarge(PermanentError):
    """The log will not take the events with these ids, however they are sent; nothing is said of the others."""

    def __init__(self, ids: frozenset[str]) -> None:
        super().__init__(f"{len(ids)} events are larger than the log takes")
        self.ids = ids


class RefusedCapture(PermanentError):
    """One capture line is refused; `reason` is from the closed list, `path` names declared fields only."""

    def __init__(self, reason: RefusalReason, path: str = "") -> None:
        super().__init__(f"{reason}: {path}" if path else str(reason))
        self.reason = reason
        self.path = path


class BuriedEvent(PermanentError):
    """One event is to be buried; `reason` is from the closed list, `path` names declared fields only."""

    def __init__(self, reason: DeadLetterReason, path: str = "") -> None:
        super().__init__(f"{reason}: {path}" if path else str(reason))
        self.reason = reason
        self.path = path


class RetryableError(AuditapError):
    """The same input may succeed later. The message names the part that is away, nothing else."""


class NotDurable(RetryableError):
    """Nothing of the batch may be called accepted; `retry_after_s` is a hint for the sender."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
