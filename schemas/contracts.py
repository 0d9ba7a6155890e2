"""The contracts as JSON Schema, and why a text does not fit one: by schema paths alone, never by a value of the text."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any

import jsonschema
import msgspec


@cache
def contract(name: str) -> dict[str, Any]:
    """Return the JSON Schema of a contract.

    `name`: `capture`, `heartbeat`, `audit_event`, `tap_report`, `audit_record` or `dead_letter`.
    """
    text = files("schemas").joinpath(f"{name}.schema.json").read_bytes()
    schema: dict[str, Any] = json.loads(text)
    return schema


@cache
def validator(name: str) -> jsonschema.Draft202012Validator:
    """Return the validator of a contract. Building it takes milliseconds; it is kept."""
    schema = contract(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def schema_path_of_first_error(name: str, text: bytes) -> str | None:
    """Return where a JSON text first breaks the contract, as `request.url: maxLength`; None if it is not JSON.

    The path is made of the contract's own property names and keywords. It is empty if the text fits, or is too
    deep to be read.
    """
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    except RecursionError:
        return ""
    error = next(iter(validator(name).iter_errors(value)), None)
    if error is None:
        return ""
    names = _property_names(list(error.absolute_schema_path))
    if error.validator == "required":
        # The schema's own list has the name; jsonschema's message would quote the instance.
        names.append(next(field for field in error.validator_value if field not in error.instance))
    return f"{'.'.join(names) or '$'}: {error.validator}"


def _property_names(schema_path: list[str | int]) -> list[str]:
    # Names are taken from the schema's path and not from the instance's, in which map keys are traffic.
    return [str(step) for keyword, step in pairwise(schema_path) if keyword == "properties"]
