"""From the bytes a service answers with to what is found in them, or the refusal to believe them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jsonschema
import msgspec

from enricher.ports import FIELDS_THAT_MAY_BE_LEFT_OUT, Found
from schemas.errors import RetryableError

FieldsReader = Callable[[Mapping[str, Any]], Found]

# What no name holds, and what Postgres, terminals or logs would trip over: C0 and C1 controls, surrogates, and the
# separators that some readers take for line ends.
_FORBIDDEN = "[\\u0000-\\u001f\\u007f-\\u009f\\u2028\\u2029\\ud800-\\udfff]"
_MISSING = object()


class AnswerReader(Protocol):
    """Reads what a service answered about a key; see `compile_answer`."""

    def __call__(self, body: bytes, key: str = "") -> Found:
        """Return what is found in the answer. Raises RetryableError."""


def compile_answer(
    who: str, pointers: Mapping[str, str], value_chars_max: int, id_pointer: str | None = None
) -> AnswerReader:
    """Return the function that reads one answer about a key.

    It gives `Found` with the fields that `pointers` names: null and the empty text are None. It raises
    RetryableError, which names `who` and the field at fault, for anything that is not JSON of that shape, and where
    `id_pointer` leads to another id than the key.
    """
    steps = {field: _steps(pointer) for field, pointer in pointers.items()}
    id_steps = None if id_pointer is None else _steps(id_pointer)
    read_fields = compile_fields(who, tuple(pointers), value_chars_max)

    def read(body: bytes, key: str = "") -> Found:
        document = _decoded(who, body)
        if id_steps is not None and not _is_id(_at(document, id_steps), key):
            raise RetryableError(f"{who} answered about what was not asked")
        fields = {field: _at(document, path) for field, path in steps.items()}
        return read_fields({field: value for field, value in fields.items() if value is not _MISSING})

    return read


def compile_fields(who: str, names: tuple[str, ...], value_chars_max: int) -> FieldsReader:
    """Return the function that makes `Found` of fields by their names, or raises RetryableError as above."""
    validator = jsonschema.Draft202012Validator(_schema(names, value_chars_max))

    def read(fields: Mapping[str, Any]) -> Found:
        error = next(validator.iter_errors(fields), None)
        if error is not None:
            at = ".".join(map(str, error.absolute_path)) or "a field"
            raise RetryableError(f"{who} answered in another shape ({at}: {error.validator})")
        return Found(**{field: value or None for field, value in fields.items()})

    return read


def _is_id(value: Any, key: str) -> bool:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return (str(value) if is_number else value) == key


def _schema(fields: tuple[str, ...], value_chars_max: int) -> dict[str, Any]:
    text = {
        "type": ["string", "null"],
        "maxLength": value_chars_max,
        "not": {"pattern": _FORBIDDEN, "type": "string"},
    }
    return {
        "type": "object",
        "properties": dict.fromkeys(fields, text),
        "required": [field for field in fields if field not in FIELDS_THAT_MAY_BE_LEFT_OUT],
    }


def _decoded(who: str, body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    raise RetryableError(f"{who} answered with what is not JSON")


def _steps(pointer: str) -> tuple[str, ...]:
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:])


def _at(document: Any, steps: tuple[str, ...]) -> Any:
    """Return what the pointer leads to; `_MISSING` where an object lacks its last step, None never stands for that.

    A pointer that is lost earlier gives the wrong shape: an object, which no field may be.
    """
    for index, step in enumerate(steps):
        if isinstance(document, dict) and step in document:
            document = document[step]
        elif isinstance(document, list) and step.isdecimal() and int(step) < len(document):
            document = document[int(step)]
        else:
            at_the_end = isinstance(document, dict) and index == len(steps) - 1
            return _MISSING if at_the_end else {}
    return document
