"""Why a document does not fit its contract, told by schema paths alone: never a value of the document."""

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
    """Return the JSON Schema of a contract: `capture`, `heartbeat`, `audit_event`, `tap_report`, `audit_record`, `dead_letter`."""
    text = files("schemas").joinpath(f"{name}.schema.json").read_bytes()
    document: dict[str, Any] = json.loads(text)
    return document


@cache
def validator(name: str) -> jsonschema.Draft202012Validator:
    """Return the prebuilt validator of a contract."""
    schema = contract(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def schema_path_of_first_error(name: str, document: bytes) -> str:
    """Return where `document` first breaks the contract, as `request.url: maxLength`.

    Made of the contract's own property names and keywords; empty where the document fits or is not JSON.
    """
    try:
        value = msgspec.json.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    error = next(iter(validator(name).iter_errors(value)), None)
    if error is None:
        return ""
    path = list(error.absolute_schema_path)
    names = [
        str(step) for keyword, step in pairwise(path) if keyword == "properties" and isinstance(step, str)
    ]
    if error.validator == "required":
        absent = [field for field in error.validator_value if field not in error.instance]
        names.append(absent[0])
    return f"{'.'.join(names) or '$'}: {error.validator}"
