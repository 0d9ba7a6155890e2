"""Reads and validates the responses of lookup services. Pure functions.

A service is not trusted to be correct. Whatever is not JSON of the configured shape, is about another id or holds text that
no name holds raises RetryableError. Error messages name the service and the field, never a value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jsonschema
import msgspec

from enricher.ports import OPTIONAL_FIELDS, Found
from schemas.errors import RetryableError

FieldsReader = Callable[[Mapping[str, Any]], Found]

# A longer name is a sign of a response of another kind.
VALUE_CHARS_MAX = 512
# Characters that no name holds and that break Postgres, terminals or logs: C0 and C1 controls, surrogates, and the
# separators that some readers take for line ends.
_FORBIDDEN = "[\\u0000-\\u001f\\u007f-\\u009f\\u2028\\u2029\\ud800-\\udfff]"
_MISSING = object()


class ResponseReader(Protocol):
    """Reads one response body; see `compile_response_reader`."""

    def __call__(self, body: bytes, key: str = "") -> Found:
        """Return the fields in the response about `key`. Raises RetryableError."""


def compile_response_reader(
    service: str, pointers: Mapping[str, str], id_pointer: str | None = None
) -> ResponseReader:
    """Return the function that reads the response bodies of a service.

    It returns `Found` with the fields named in `pointers` (field to JSON pointer); null and the empty string become None. It
    raises RetryableError if the body is not JSON of that shape, or if `id_pointer` leads to another id than the key.
    """
    steps = {field: _steps(pointer) for field, pointer in pointers.items()}
    id_steps = None if id_pointer is None else _steps(id_pointer)
    read_fields = compile_fields_reader(service, tuple(pointers))

    def read(body: bytes, key: str = "") -> Found:
        document = _decode(service, body)
        if id_steps is not None and not _is_id(_resolve(document, id_steps), key):
            raise RetryableError(f"{service} responded about another id")
        fields = {field: _resolve(document, path) for field, path in steps.items()}
        return read_fields({field: value for field, value in fields.items() if value is not _MISSING})

    return read


def compile_fields_reader(service: str, names: tuple[str, ...]) -> FieldsReader:
    """Return the function that validates the fields `names` and makes `Found` of them. It raises RetryableError."""
    validator = jsonschema.Draft202012Validator(_schema(names))

    def read(fields: Mapping[str, Any]) -> Found:
        # The path and the keyword alone: jsonschema's message quotes the value.
        error = next(validator.iter_errors(fields), None)
        if error is not None:
            at = ".".join(map(str, error.absolute_path)) or "a field"
            raise RetryableError(f"{service} responded in an unexpected shape ({at}: {error.validator})")
        return Found(**{field: value or None for field, value in fields.items()})

    return read


def _is_id(value: Any, key: str) -> bool:
    # Some services write ids as numbers.
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return (str(value) if is_number else value) == key


def _schema(fields: tuple[str, ...]) -> dict[str, Any]:
    text = {
        "type": ["string", "null"],
        "maxLength": VALUE_CHARS_MAX,
        "not": {"pattern": _FORBIDDEN, "type": "string"},
    }
    return {
        "type": "object",
        "properties": dict.fromkeys(fields, text),
        "required": [field for field in fields if field not in OPTIONAL_FIELDS],
    }


def _decode(service: str, body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    # Raised out here, because the decoder's error may quote the response.
    raise RetryableError(f"{service} responded with invalid JSON")


def _steps(pointer: str) -> tuple[str, ...]:
    # In this order (RFC 6901): `~01` is `~1` and not `/`.
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:])


def _resolve(document: Any, steps: tuple[str, ...]) -> Any:
    """Return the value at a JSON pointer; `_MISSING` if the last step is not a member of its object.

    If the pointer leads nowhere before that, the result is an object, which is no valid value of any field.
    """
    for index, step in enumerate(steps):
        if isinstance(document, dict) and step in document:
            document = document[step]
        elif isinstance(document, list) and step.isdecimal() and int(step) < len(document):
            document = document[int(step)]
        else:
            is_last = isinstance(document, dict) and index == len(steps) - 1
            return _MISSING if is_last else {}
    return document
