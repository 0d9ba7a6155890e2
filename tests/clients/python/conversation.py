"""How a program that reads a log talks with its test: a line for each page, then it waits until the test says so."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any


class FailedError(Exception):
    """An error of the log API, as the client shows it. `kind` is the client's own type."""

    def __init__(self, kind: str, status: int, codes: Sequence[int]) -> None:
        super().__init__(kind, status, codes)
        self.failure = {"kind": kind, "status": status, "codes": list(codes)}


def requested() -> dict[str, Any]:
    request: dict[str, Any] = json.loads(sys.argv[1])
    return request


def show(pages: Iterable[object]) -> None:
    """Write each page, and read on once the test has written a line."""
    try:
        for page in pages:
            _write({"page": page})
            if not sys.stdin.readline():
                return
    except FailedError as error:
        _write({"failure": error.failure})
    else:
        _write({"end": True})


def _write(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
