"""Values that arrive as text, in URLs and forms, read as the scalars that a schema declares."""

from __future__ import annotations

import re
from collections.abc import Iterator

from redactor.plan import DROPPED, Kept, Scalar
from redactor.wellformed import Json, JsonInteger, JsonNumber

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


def readings(text: str) -> Iterator[Json]:
    """Yield what a text may stand for: itself, then a boolean or a number."""
    yield text
    if text in ("true", "false"):
        yield text == "true"
    elif _INTEGER.fullmatch(text) is not None:
        yield JsonInteger(text)
    elif _NUMBER.fullmatch(text) is not None:
        yield JsonNumber(text)


def read_text(plan: Scalar, text: str) -> Kept:
    """Return the first reading of a text that is kept."""
    return next((kept for value in readings(text) if (kept := plan.keep(value)) is not DROPPED), DROPPED)


def fits_text(plan: Scalar, text: str) -> bool:
    """Tell whether a text, read as any of the plan's types, is kept."""
    if plan.only is None and str in plan.types:
        return True
    return read_text(plan, text) is not DROPPED
