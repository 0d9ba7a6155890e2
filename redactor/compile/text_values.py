"""Values in URLs and form fields are text; here they are read as the scalars that a schema declares."""

from __future__ import annotations

import re
from collections.abc import Iterator

from redactor.compile.plan import DROPPED, Kept, ScalarPlan
from redactor.decode.json import Json, JsonInteger, JsonNumber

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


def readings(text: str) -> Iterator[Json]:
    """Yield the JSON scalars that a text may stand for: a string, then a boolean or a number."""
    yield text
    if text in ("true", "false"):
        yield text == "true"
    elif _INTEGER.fullmatch(text) is not None:
        yield JsonInteger(text)
    elif _NUMBER.fullmatch(text) is not None:
        yield JsonNumber(text)


def read_text(plan: ScalarPlan, text: str) -> Kept:
    """Return the first reading of the text that the plan keeps, or DROPPED."""
    return next((kept for value in readings(text) if (kept := plan.keep(value)) is not DROPPED), DROPPED)


def fits_text(plan: ScalarPlan, text: str) -> bool:
    """Whether the plan keeps some reading of the text."""
    if plan.allowed_values is None and str in plan.types:
        return True
    return read_text(plan, text) is not DROPPED
