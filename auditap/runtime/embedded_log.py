"""The embedded log, from the settings."""

from __future__ import annotations

from auditap.settings import Settings
from eventlog.embedded.log import EmbeddedLog, EmbeddedLogSettings

_OLD_ALERTING_GROUP = "auditap-watch"
"""A log from before the group was renamed still has its offset, which nobody moves any more."""


def event_log(settings: Settings) -> EmbeddedLog:
    """Return the embedded log in `data_dir`, not yet opened. Processes share it through its file.

    Events are kept until the ingestor has read them, however long that takes. Alerting is a best-effort group: if it does
    not read, the log must not fill up and refuse captures.
    """
    return EmbeddedLog(
        EmbeddedLogSettings(
            path=settings.data_dir / "log" / "events.sqlite",
            best_effort_groups=frozenset({settings.alerting.group, _OLD_ALERTING_GROUP}),
        )
    )


def own_event_log(settings: Settings, shared: EmbeddedLog | None) -> EmbeddedLog | None:
    """Return an embedded log that the caller owns and closes; None if the log is Kafka, or `shared` is one."""
    return event_log(settings) if settings.embedded_log and shared is None else None
