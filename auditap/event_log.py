"""The embedded log as the settings describe it."""

from __future__ import annotations

from auditap.settings import Settings
from redactor.event_log import EventLog, EventLogSettings


def event_log(settings: Settings) -> EventLog:
    """Return the embedded log below `data_dir`, not yet opened. Processes share it by its file.

    The ingestor is waited for without end, the watcher is not: however long it stands still, captures are taken.
    """
    return EventLog(
        EventLogSettings(
            path=settings.data_dir / "log" / "events.sqlite", dispensable=frozenset({settings.watch.group})
        )
    )


def own_event_log(settings: Settings, shared: EventLog | None) -> EventLog | None:
    """Return a log that the caller opens and closes, or None where Kafka or a log shared with others serves."""
    return event_log(settings) if settings.embedded_log and shared is None else None
