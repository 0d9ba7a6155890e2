from __future__ import annotations

import contextlib
import io
import json
import logging
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from auditap.runtime.logs import _QUIET, configure_logs
from auditap.runtime.repeats import RepeatsHandler
from eventlog.embedded.log import EmbeddedLog, EmbeddedLogSettings
from schemas.errors import NotDurable
from schemas.event import EncodedEvent

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


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[dict[str, Any]]]:
    """Return what was logged since the last call."""
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


async def test_a_full_log_logs_once_a_second_and_counts_every_batch_it_refused(
    tmp_path: Path, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    configure_logs("info", "json")
    refused = 0
    began_s = time.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        full = EmbeddedLog(EmbeddedLogSettings(tmp_path / "events.db", bytes_max=40 * 8_192))
        await full.open()
        stack.push_async_callback(full.close)
        while refused < 100:
            try:
                await full.append([EncodedEvent(f"{0:032x}", b"." * 8_000, 1)])
            except NotDurable:
                refused += 1
    logging.getLogger().handlers[0].close()
    failed = [line for line in lines() if line["event"] == "append_failed"]
    assert len(failed) <= time.monotonic() - began_s + 2
    assert sum(1 + line.get("more_like_it", 0) for line in failed) == 100


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def with_clock() -> Clock:
    """Configure logs whose clock stands still; in the test itself, because only then does `capsys` see them."""
    configure_logs("info", "json")
    clock = Clock()
    handler = logging.getLogger().handlers[0]
    assert isinstance(handler, RepeatsHandler)
    handler._clock_s = clock
    return clock


def test_what_repeats_is_counted_and_the_count_comes_with_the_next_line(
    lines: Callable[[], list[dict[str, Any]]],
) -> None:
    clock = with_clock()
    log = structlog.get_logger("ours")
    for attempt in range(38):
        log.warning("retrying", part="store", attempt=attempt)
    assert [(line["attempt"], line.get("more_like_it")) for line in lines()] == [(0, None)]
    clock.now_s = 1
    log.warning("retrying", part="store", attempt=38)
    assert [(line["attempt"], line.get("more_like_it")) for line in lines()] == [(38, 37)]
    log.warning("retrying", part="store", attempt=39)
    log.warning("retrying", part="store", attempt=40)
    clock.now_s = 2
    log.info("anything")
    assert [(line["event"], line.get("attempt"), line.get("more_like_it")) for line in lines()] == [
        ("retrying", 40, 1),
        ("anything", None, None),
    ]
    log.warning("retrying", part="store", attempt=41)
    assert not lines()
    logging.getLogger().handlers[0].close()
    assert [line["attempt"] for line in lines()] == [41]


def test_lines_that_say_different_things_are_all_written(
    lines: Callable[[], list[dict[str, Any]]],
) -> None:
    with_clock()
    log = structlog.get_logger("ours")
    log.warning("failed", cause="full")
    log.warning("failed", cause="locked")
    log.error("failed", cause="full")
    log.error("offsets_lost", partition=1)
    log.error("offsets_lost", partition=2)
    structlog.get_logger("another").warning("failed", cause="full")
    for _ in range(2):
        log.info("partition_dropped")
    assert len(lines()) == 8


def test_a_library_s_lines_are_counted_by_their_message(
    lines: Callable[[], list[dict[str, Any]]],
) -> None:
    clock = with_clock()
    log = logging.getLogger("a library")
    for node in range(4):
        log.warning("no connection to node %d", node)
    clock.now_s = 1
    log.warning("no connection to node %d", 4)
    assert [line["event"] for line in lines()] == [
        "no connection to node 0",
        "no connection to node 4 (and 3 more like it)",
    ]


def test_lines_of_ever_other_kinds_are_kept_in_bounds(
    lines: Callable[[], list[dict[str, Any]]],
) -> None:
    with_clock()
    log = structlog.get_logger("ours")
    for kind in range(1_001):
        log.warning("failed", cause=str(kind))
        log.warning("failed", cause=str(kind))
    # The oldest kind made room for the newest, and was written with what was left out of it.
    assert Counter(line["cause"] for line in lines())["0"] == 2
    handler = logging.getLogger().handlers[0]
    assert len(handler._windows) == 1_000  # type: ignore[attr-defined]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 11)), max_size=60))
def test_every_line_is_written_or_counted_and_none_twice_a_second(steps: list[tuple[int, int]]) -> None:
    clock, written = Clock(), io.StringIO()
    handler = RepeatsHandler(written, clock)
    said: Counter[int] = Counter()
    at_s: dict[int, float] = {}
    for kind, sixteenths_s in steps:
        clock.now_s += sixteenths_s / 16  # a sum without rounding
        before = written.tell()
        handler.handle(logging.LogRecord("lib", logging.WARNING, "", 0, f"kind {kind}", None, None))
        said[kind] += 1
        for line in written.getvalue()[before:].splitlines():
            logged = int(line.split()[1])
            assert clock.now_s - at_s.get(logged, -1.0) >= 1
            at_s[logged] = clock.now_s
    handler.close()
    found: Counter[int] = Counter()
    for line in written.getvalue().splitlines():
        words = line.split()
        found[int(words[1])] += 1 + (int(words[3]) if len(words) > 2 else 0)
    assert found == said
