from __future__ import annotations

import json
import logging
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest
import structlog

from auditap.runtime.logs import _QUIET, configure_logs

CANARY = "CANARY7f3a"


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    named = {name: logging.getLogger(name).level for name in (*_QUIET, "httpcore")}
    yield
    root.handlers = handlers
    root.setLevel(level)
    for name, before in named.items():
        logging.getLogger(name).setLevel(before)
    structlog.reset_defaults()


def failing(value: str) -> None:
    raise ValueError(value)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_an_exception_is_logged_without_its_message(
    capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    configure_logs("debug", log_format)  # type: ignore[arg-type]
    for log in (structlog.get_logger("ours"), logging.getLogger("a library")):
        try:
            failing(CANARY)
        except ValueError:
            log.exception("something failed")
    logged = capsys.readouterr().err
    assert CANARY not in logged
    assert logged.count("ValueError") == 2
    assert "test_logs.py" in logged


def test_lines_are_json_of_one_shape_for_us_and_for_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", "json")
    structlog.get_logger("ours").info("begun", count=1)
    logging.getLogger("a library").warning("beware")
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (first["event"], first["level"], first["logger"], first["count"]) == ("begun", "info", "ours", 1)
    assert (second["event"], second["level"], second["logger"]) == ("beware", "warning", "a library")


def test_libraries_that_log_every_request_are_quiet_even_at_debug(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("debug", "json")
    for name in ("httpx", "httpcore.http11", "aiokafka.consumer", "uvicorn.access"):
        logging.getLogger(name).info(CANARY)
    assert capsys.readouterr().err == ""


LAST_RESORTS = {
    "a task": "asyncio.run(forgotten())",
    "a thread": "t = threading.Thread(target=failing); t.start(); t.join()",
    "a destructor": "Destroyed()",
    "a warning": "warnings.warn('CANARY7f3a')",
    "the main thread": "failing()",
}


@pytest.mark.processes
@pytest.mark.parametrize("resort", LAST_RESORTS)
def test_what_nobody_catches_is_reported_without_its_message(resort: str) -> None:
    program = f"""
        import asyncio, gc, threading, warnings
        from auditap.runtime.exception_hooks import install_exception_hooks
        from auditap.runtime.logs import configure_logs, report_task_exception

        def failing():
            raise ValueError("CANARY7f3a")

        class Destroyed:
            def __del__(self):
                failing()

        async def fail():
            failing()

        async def forgotten():
            asyncio.get_running_loop().set_exception_handler(report_task_exception)
            task = asyncio.ensure_future(fail())
            await asyncio.sleep(0.01)
            del task
            gc.collect()

        install_exception_hooks()
        configure_logs("debug", "json")
        {LAST_RESORTS[resort]}
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    logged = ended.stdout + ended.stderr
    assert CANARY not in logged
    assert ("UserWarning" if resort == "a warning" else "ValueError") in logged
