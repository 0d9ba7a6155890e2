"""Random values that fit a schema."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

_OPTIONAL_SHARE = 0.85
_LABELS = ("team", "stage", "region", "owner", "season")
_WORDS = (
    *("the", "after", "before", "customer", "asked", "because", "traffic", "moved", "to", "new", "origin"),
    *(
        "since",
        "monday",
        "please",
        "keep",
        "until",
        "invoice",
        "holiday",
        "checked",
        "with",
        "night",
        "shift",
    ),
)


def text(rng: Random, chars_min: int, chars_max: int) -> str:
    """Return words of between `chars_min` and `chars_max` characters."""
    chars = rng.randint(chars_min, chars_max)
    words = " ".join(rng.choices(_WORDS, k=chars // 3 + 1))
    return words[:chars].strip().ljust(chars_min, ".")


def sample(schema: Mapping[str, Any], rng: Random) -> Any:
    """Return a value that fits `schema`, which uses only the keywords that the example's document uses."""
    if "const" in schema:
        return schema["const"]
    if choices := schema.get("enum") or schema.get("examples"):
        return rng.choice(choices)
    if "oneOf" in schema:
        return sample(rng.choice(schema["oneOf"]), rng)
    return _of_type(schema, rng)


def _of_type(schema: Mapping[str, Any], rng: Random) -> Any:
    match schema["type"]:
        case "object":
            return _object(schema, rng)
        case "array":
            return [sample(schema["items"], rng) for _ in range(rng.randint(1, 3))]
        case "integer":
            return rng.randint(schema.get("minimum", 0), schema.get("maximum", 10_000))
        case "boolean":
            return rng.random() < 0.5
        case _:
            return _string(schema, rng)


def _object(schema: Mapping[str, Any], rng: Random) -> dict[str, Any]:
    required = schema.get("required", ())
    value = {
        name: sample(node, rng)
        for name, node in schema.get("properties", {}).items()
        if name in required or rng.random() < _OPTIONAL_SHARE
    }
    if entries := schema.get("additionalProperties"):
        keys = schema.get("propertyNames", {}).get("enum", _LABELS)
        value |= {key: sample(entries, rng) for key in rng.sample(keys, 2)}
    return value


def _string(schema: Mapping[str, Any], rng: Random) -> str:
    digits = f"{rng.getrandbits(128):032x}"
    if schema.get("pattern") == "^[0-9a-f]{32}$":
        return digits
    if schema.get("x-sensitive") is True or schema.get("format") == "password":
        return f"not-a-real-secret-{digits}"
    if schema.get("format") == "email":
        return f"{rng.choice(_WORDS)}.{rng.randrange(1000)}@people.example"
    if schema.get("format") == "date-time":
        return f"2026-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}T{rng.randrange(24):02}:00:00Z"
    return text(rng, 20, min(120, schema.get("maxLength", 120)))
