"""Which media types are read, and as which format (rule 9)."""

from __future__ import annotations

from enum import Enum


class Format(Enum):
    """How a body is read."""

    JSON = "json"
    LINES = "lines"
    FORM = "form"
    MULTIPART = "multipart"


_FORMATS = {
    "application/x-www-form-urlencoded": Format.FORM,
    "multipart/form-data": Format.MULTIPART,
    "application/x-ndjson": Format.LINES,
    "application/ndjson": Format.LINES,
    "application/jsonl": Format.LINES,
    "application/x-jsonl": Format.LINES,
    "application/jsonlines": Format.LINES,
    "application/x-jsonlines": Format.LINES,
    "application/json-lines": Format.LINES,
}


def format_of(essence: str) -> Format | None:
    """Return how bodies of a media type are read; None where they are dropped."""
    return Format.JSON if is_json(essence) else _FORMATS.get(essence)


def is_json(essence: str) -> bool:
    return essence == "application/json" or essence.endswith("+json")


def is_form(essence: str) -> bool:
    return format_of(essence) in (Format.FORM, Format.MULTIPART)
