"""Structured logs: for people on a terminal, JSON elsewhere; never a value taken from traffic.

An exception is logged by its type and the places it passed, never by its message: messages of libraries quote
what they were given.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
import warnings
from collections.abc import MutableMapping
from typing import Any, Literal, TextIO

import stamina.instrumentation
import structlog

LogFormat = Literal["auto", "console", "json"]
_FRAMES_MAX = 20
# Libraries whose INFO says nothing to an operator, or says it once per request.
_QUIET = ("aiokafka", "asyncio", "httpx", "httpcore", "uvicorn", "openapi_core")


def configure_logs(level: str, log_format: LogFormat) -> None:
    """Send structlog's and the standard library's logs to standard error in one shape."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        without_message,
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
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
    # At DEBUG it logs the headers of answers.
    logging.getLogger("httpcore").setLevel(logging.WARNING)
    # Retries are logged where they are made, by the part that is away and not by the call's arguments.
    stamina.instrumentation.set_on_retry_hooks([])


def guard_last_resorts() -> None:
    """Let the interpreter's own reports of what nobody caught name the type and the place, never the message."""
    log = structlog.get_logger("auditap")

    def report(kind: str, error: BaseException | None) -> None:
        log.error(kind, exc_info=error)

    def on_warning(  # noqa: PLR0917  the interpreter's own signature
        message: Warning | str,  # noqa: ARG001
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,  # noqa: ARG001
        line: str | None = None,  # noqa: ARG001
    ) -> None:
        log.warning("python_warning", category=category.__name__, at=f"{filename}:{lineno}")

    sys.excepthook = lambda _type, error, _trace: report("ended_by_fault", error)
    sys.unraisablehook = lambda unraisable: report("fault_not_raised", unraisable.exc_value)
    threading.excepthook = lambda caught: report("fault_in_thread", caught.exc_value)
    warnings.showwarning = on_warning


def report_loop_fault(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what an event loop could not give to anybody, by type and place; for `set_exception_handler`."""
    structlog.get_logger("auditap").error("fault_in_task", exc_info=context.get("exception"))


def without_message(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Replace an exception by its type and the places it passed."""
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
