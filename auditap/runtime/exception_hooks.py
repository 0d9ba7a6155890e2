"""Log uncaught exceptions by type and place, never by their message, which may quote traffic.

This is imported before anything else, so it imports nothing heavy; structlog is imported when there is something to log.
"""

from __future__ import annotations

import sys
import threading
import warnings
from typing import Any, TextIO


def install_exception_hooks() -> None:
    """Replace the interpreter's own reports of uncaught exceptions and of warnings."""
    sys.excepthook = lambda _type, error, _trace: _report("uncaught_exception", error)
    sys.unraisablehook = lambda unraisable: _report("unraisable_exception", unraisable.exc_value)
    threading.excepthook = lambda caught: _report("exception_in_thread", caught.exc_value)
    warnings.showwarning = _on_warning


def _report(event: str, error: BaseException | None) -> None:
    _logger().error(event, exc_info=error)


def _on_warning(  # noqa: PLR0917  the interpreter's own signature
    message: Warning | str,  # noqa: ARG001
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    _logger().warning("python_warning", category=category.__name__, at=f"{filename}:{lineno}")


def _logger() -> Any:
    import structlog  # noqa: PLC0415

    from auditap.runtime.logs import configure_logs  # noqa: PLC0415

    if not structlog.is_configured():
        # A logger that nobody configured would show tracebacks with the values in them.
        configure_logs("info", "auto")
    return structlog.get_logger("auditap")
