"""(a) The redactor alone, on one core: `python -m bench.redactor`."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from openapi_core import OpenAPI
from openapi_core.protocols import Request as OpenAPIRequest
from openapi_core.testing import MockRequest, MockResponse

from bench.plain_walk import PlainWalk
from bench.results import BENCH, table, write_section
from bench.workload import (
    EXAMPLE_DOCUMENT,
    LIST_OPERATION,
    bodies_in,
    every_operation_lines,
    example_config,
    example_lines,
    list_lines,
)
from redactor.config import DocumentConfig, RedactionConfig
from redactor.decode.url import split_path, split_url
from redactor.openapi.document import load_document
from redactor.openapi.route_automaton import start_state, state_after
from redactor.pipeline import pipeline
from redactor.pipeline.redactor import Redactor, redact_lines
from schemas.capture import decode_capture

_ROUNDS = 5
_PAIRS = 10_000
_OPENAPI_PAIRS = 60


class Measured(NamedTuple):
    """Seconds of CPU time and of the clock for one pass over `count` lines; the medians of several passes."""

    what: str
    count: int
    cpu_s: float
    wall_s: float

    @property
    def cpu_us(self) -> float:
        return self.cpu_s / self.count * 1e6

    @property
    def rate(self) -> float:
        return self.count / self.cpu_s


def measured(what: str, count: int, pass_over: Callable[[], object], rounds: int = _ROUNDS) -> Measured:
    pass_over()  # what is compiled on first use is not measured
    gc.collect()
    times = []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        pass_over()
        times.append((time.process_time() - cpu, time.perf_counter() - wall))
    return Measured(
        what, count, statistics.median(t[0] for t in times), statistics.median(t[1] for t in times)
    )


def through(redactor: Redactor, lines: Sequence[bytes]) -> Callable[[], object]:
    """From the lines to the events' bytes, as `auditap redact` and the collector do it."""
    return lambda: sum(len(event) for event in redact_lines(redactor, lines))


def interleaved(candidates: Sequence[tuple[str, int, Callable[[], object]]]) -> list[Measured]:
    """Measure candidates in turns, so that the machine's moods fall on all of them."""
    rounds = [[measured(*each, rounds=1) for each in candidates] for _ in range(_ROUNDS)]
    return [
        Measured(
            name,
            count,
            statistics.median(each[index].cpu_s for each in rounds),
            statistics.median(each[index].wall_s for each in rounds),
        )
        for index, (name, count, _) in enumerate(candidates)
    ]


class OpenAPICore:
    """A baseline: openapi-core unmarshals request and response by the document, and the same walk follows."""

    def __init__(self, plain: PlainWalk) -> None:
        self._api = OpenAPI.from_file_path(str(EXAMPLE_DOCUMENT))
        self._plain = plain
        self.asked = self.failed = 0

    def redact(self, line: bytes) -> None:
        capture = orjson.loads(line)
        asked, answered = capture["request"], capture["response"]
        host, _, path = asked["url"].partition("://")[2].partition("/")
        path, _, query = path.partition("?")
        pairs = (pair.partition("=") for pair in query.split("&") if pair)
        request: OpenAPIRequest = MockRequest(
            f"https://{host}",
            asked["method"].lower(),
            "/" + path,
            args={name: value for name, _, value in pairs},
            headers=asked["headers"],
            data=(asked.get("body") or "").encode(),
            content_type=asked["headers"].get("content-type", ""),
        )
        response = MockResponse(
            (answered.get("body") or "").encode(),
            answered["status"],
            answered["headers"],
            answered["headers"].get("content-type", ""),
        )
        errors = [*self._api.unmarshal_request(request).errors]
        errors += self._api.unmarshal_response(request, response).errors
        self.asked += 1
        self.failed += bool(errors)
        self._plain.redact(line)


def agreement(redactor: Redactor, plain: PlainWalk, lines: Sequence[bytes]) -> float:
    """Return the share of pairs of which both keep the same of the bodies."""
    same = 0
    for line, event in zip(lines, redact_lines(redactor, lines), strict=True):
        ours, theirs = (orjson.loads(each).get("resource", {}) for each in (event, plain.redact(line)))
        same += all(ours.get(side) == theirs.get(side) for side in ("request", "response"))
    return same / len(lines)


def is_compiled() -> bool:
    """Whether what is measured is what `make compile` made."""
    return not str(pipeline.__file__).endswith(".py")


def example() -> str:
    lines = example_lines(_PAIRS)
    config = example_config()
    document = load_document(config.documents[0])
    redactor, plain = Redactor([document], config), PlainWalk(document, config)
    openapi = OpenAPICore(plain)
    few = lines[:_OPENAPI_PAIRS]
    found = interleaved(
        [
            ("auditap, from a line to the bytes of its event", len(lines), through(redactor, lines)),
            ("of this, decoding the captures", len(lines), lambda: [decode_capture(line) for line in lines]),
            ("orjson and a recursive walk", len(lines), lambda: [plain.redact(line) for line in lines]),
            (
                "openapi-core, then the same walk",
                len(few),
                lambda: [openapi.redact(line) for line in few],
            ),
        ]
    )
    ours = found[0]
    rows = [
        [
            each.what,
            f"{each.rate:,.0f}",
            f"{each.cpu_us:.1f}",
            f"{each.cpu_s / each.count / ours.cpu_s * ours.count:.2f}",
        ]
        for each in found
    ]
    sizes = sum(map(len, lines)) / len(lines)
    alike = agreement(redactor, plain, lines)
    return (
        f"{'Compiled modules. ' if is_compiled() else ''}Example workload: {len(lines):,} pairs of {sizes:,.0f} bytes, {bodies_in(lines) / len(lines):,.0f} of them bodies."
        f" Medians of {_ROUNDS} turns. The plain walk keeps the same body values in {alike:.1%} of the pairs;"
        f" openapi-core raised an error for {openapi.failed} of its {openapi.asked}.\n\n"
        + table(["", "pairs/s on one core", "CPU µs a pair", "times auditap's"], rows)
    )


def lists() -> str:
    lines = list_lines(400)
    config = example_config()
    document = load_document(config.documents[0])
    redactor, plain = Redactor([document], config), PlainWalk(document, config)
    found = interleaved(
        [
            ("auditap", len(lines), through(redactor, lines)),
            ("of this, decoding the captures", len(lines), lambda: [decode_capture(line) for line in lines]),
            ("orjson and a recursive walk", len(lines), lambda: [plain.redact(line) for line in lines]),
        ]
    )
    bodies = bodies_in(lines)
    rows = [
        [each.what, f"{each.rate:,.0f}", f"{each.cpu_us:,.0f}", f"{bodies / each.cpu_s / 1e6:,.0f}"]
        for each in found
    ]
    return (
        f"List responses of {bodies / len(lines):,.0f} bytes (`{LIST_OPERATION}`, recorded by configuration).\n\n"
        + table(["", "pairs/s on one core", "CPU µs a pair", "MB/s of bodies"], rows)
    )


def every_operation(path: Path) -> str:
    config = RedactionConfig(documents=(DocumentConfig(path, envelope="result"),))
    document = load_document(config.documents[0])
    lines = every_operation_lines(document, config)
    redactor = Redactor([document], config)
    plain = PlainWalk(document, config)
    began = time.process_time()
    through(redactor, lines)()
    first_s = time.process_time() - began
    found = interleaved(
        [
            ("auditap", len(lines), through(redactor, lines)),
            ("of this, decoding the captures", len(lines), lambda: [decode_capture(line) for line in lines]),
            ("only finding the operation", len(lines), routing(redactor, lines)),
            (
                "the same on the reference path (trie)",
                len(lines),
                routing_by_reference(redactor, lines),
            ),
            ("orjson and a recursive walk", len(lines), lambda: [plain.redact(line) for line in lines]),
        ]
    )
    rows = [[each.what, f"{each.rate:,.0f}", f"{each.cpu_us:.2f}"] for each in found]
    sizes = sum(map(len, lines)) / len(lines)
    return (
        f"A mix over all {len(lines):,} operations of {path.name}, {sizes:,.0f} bytes a pair, every declared position"
        f" filled; compiling all of them on first use took {first_s:.1f} s.\n\n"
        + table(["", "pairs/s on one core", "CPU µs a pair"], rows)
    )


def routing(redactor: Redactor, lines: Sequence[bytes]) -> Callable[[], object]:
    """Only the step from a path's segments to the operations that apply, on the fast path."""
    captures = [decode_capture(line) for line in lines]
    urls = [split_url(each.request.url) for each in captures]
    tables = {url.host: redactor.routes.only_table(url.host) for url in urls}
    begins = {host: start_state(found) for host, found in tables.items() if found is not None}
    asked = [
        (begins[url.host], each.request.method, url.path.split("/"))
        for url, each in zip(urls, captures, strict=True)
    ]

    def all_of_them() -> None:
        for begin, method, segments in asked:
            state = state_after(begin, segments)
            if state is not None:
                state.routes_for(method)

    all_of_them()  # states are made as they are met
    return all_of_them


def routing_by_reference(redactor: Redactor, lines: Sequence[bytes]) -> Callable[[], object]:
    """The same step in the trie, from decoded segments."""
    captures = [decode_capture(line) for line in lines]
    urls = [split_url(each.request.url) for each in captures]
    asked = [
        (url, None, each.request.method, split_path(url.path))
        for url, each in zip(urls, captures, strict=True)
    ]
    match = redactor.routes.match

    def all_of_them() -> None:
        for url, host, method, segments in asked:
            match(url, host, method, segments)

    return all_of_them


def real_document() -> Path | None:
    """The marked document in the folder that AUDITAP_REAL_SPECS names."""
    folder = os.environ.get("AUDITAP_REAL_SPECS")
    found = sorted(Path(folder).glob("*auditable*.json")) if folder else []
    return found[0] if found else None


def run() -> None:
    sections: list[Any] = [example(), lists()]
    document = real_document()
    if document is not None:
        sections.append(every_operation(document))
    else:
        sections.append("AUDITAP_REAL_SPECS names no folder with a real document: its mix was not measured.")
    write_section("(a) The redactor alone", "\n\n".join(sections))


if __name__ == "__main__":
    os.chdir(BENCH.parent)
    run()
