"""Which format a file has, by how it begins."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

_HAR: Final = re.compile(rb'\s*\{\s*"log"\s*:\s*\{')
_FLOW: Final = re.compile(rb"[0-9]{1,12}:[0-9]{1,2}:[a-z_]{1,20}[;,]")


class FileFormat(StrEnum):
    """A format of files with pairs that other tools write; the value is what people call it."""

    HAR = "HAR"
    MITMPROXY = "mitmproxy flow"


def recognize(head: bytes) -> FileFormat | None:
    """Return the format of a file that begins with `head`, without a byte order mark; None if it is neither of these."""
    if _HAR.match(head):
        return FileFormat.HAR
    return FileFormat.MITMPROXY if _FLOW.match(head) else None
