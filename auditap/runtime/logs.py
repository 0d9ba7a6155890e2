"""Structured logs: for people on a terminal, JSON elsewhere; never a value taken from traffic.

An exception is logged by its type and the frames of its traceback, never by its message: libraries quote their input.
A warning that repeats is written once a second, with a count.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any, Literal

import stamina.instrumentation
import structlog

from auditap.runtime.repeats import RepeatsHandler

LogFormat = Literal["auto", "console", "json"]
_FRAMES_MAX = 20
# Libraries whose INFO says nothing to an operator, or says it once per request.
_QUIET = ("aiokafka", "asyncio", "httpx", "httpcore", "uvicorn", "openapi_core")


def configure_logs(level: str, log_format: LogFormat, worker: int | None = None) -> None:
    """Send structlog's and the standard library's logs to standard error in one shape.

    `worker`: the number of this process among several of one command, for each of its lines.
    """
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        without_message,
    ]
    if worker is not None:
        shared.append(_named(worker))
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = RepeatsHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
    # At DEBUG it logs the headers of responses.
    logging.getLogger("httpcore").setLevel(logging.WARNING)
    # stamina's own hook would log the arguments of the call. Retries are logged where they are made.
    stamina.instrumentation.set_on_retry_hooks([])


def _named(worker: int) -> structlog.typing.Processor:
    def named(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["worker"] = worker
        return event

    return named


def report_task_exception(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an exception that no task awaited, by type and place; for `loop.set_exception_handler`."""
    structlog.get_logger("auditap").error("exception_in_task", exc_info=context.get("exception"))


def without_message(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Replace an exception by its type and the frames of its traceback; a processor of structlog."""
    found = event.pop("exc_info", None)
    record: logging.LogRecord | None = event.get("_record")
    if record is not None and record.exc_info:
        found = record.exc_info
        record.exc_info = None
        record.exc_text = None
    if found is True:
        found = sys.exc_info()
    error = found if isinstance(found, BaseException) else found[1] if isinstance(found, tuple) else None
    if error is not None:
        frames = traceback.extract_tb(error.__traceback__)[-_FRAMES_MAX:]
        event["exception"] = type(error).__name__
        event["at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return event
