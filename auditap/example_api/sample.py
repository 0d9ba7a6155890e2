"""Values that fit a schema of the example's document: a schema is compiled once into a function of a generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

from auditap.example_api.document import resolve

Sampler = Callable[[Random], Any]

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


def hex_id(rng: Random) -> str:
    """Return 32 hex digits."""
    return f"{rng.getrandbits(128):032x}"


def sampler_of(schema: Mapping[str, Any]) -> Sampler:
    """Return a function that draws a value which fits `schema`.

    Knows the keywords that the example's document uses; the document has no recursion.
    """
    schema = resolve(schema)
    if "const" in schema:
        constant = schema["const"]
        return lambda _rng: constant
    if choices := schema.get("enum") or schema.get("examples"):
        return _choice(choices)
    if "oneOf" in schema:
        branches = [sampler_of(branch) for branch in schema["oneOf"]]
        return lambda rng: rng.choice(branches)(rng)
    if "allOf" in schema:
        return _object(schema)
    kind = schema["type"]
    return _SAMPLERS[kind if isinstance(kind, str) else kind[0]](schema)


def properties_of(schema: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the properties that an object's schema declares, those of all branches of its `allOf` united."""
    return {name: node for part in _parts(schema) for name, node in part.get("properties", {}).items()}


def _parts(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    schema = resolve(schema)
    yield schema
    for branch in schema.get("allOf", ()):
        yield from _parts(branch)


def _choice(choices: Sequence[Any]) -> Sampler:
    return lambda rng: rng.choice(choices)


def _object(schema: Mapping[str, Any]) -> Sampler:
    required = {name for part in _parts(schema) for name in part.get("required", ())}
    required |= set(list(properties_of(schema))[: schema.get("minProperties", 0)])
    fields = [(name, sampler_of(node), name in required) for name, node in properties_of(schema).items()]
    entries = schema.get("additionalProperties")
    entry = sampler_of(entries) if isinstance(entries, Mapping) else None
    keys = schema.get("propertyNames", {}).get("enum", _LABELS)

    def sample(rng: Random) -> dict[str, Any]:
        value = {name: draw(rng) for name, draw, needed in fields if needed or rng.random() < _OPTIONAL_SHARE}
        if entry is not None:
            value |= {key: entry(rng) for key in rng.sample(keys, 2)}
        return value

    return sample


def _array(schema: Mapping[str, Any]) -> Sampler:
    item = sampler_of(schema["items"])
    least = schema.get("minItems", 1)
    most = max(least, min(schema.get("maxItems", 3), 3))
    return lambda rng: [item(rng) for _ in range(rng.randint(least, most))]


def _string(schema: Mapping[str, Any]) -> Sampler:
    if schema.get("pattern") == "^[0-9a-f]{32}$":
        return hex_id
    if schema.get("x-sensitive") is True or schema.get("format") == "password":
        return lambda rng: f"not-a-real-secret-{hex_id(rng)}"
    if schema.get("format") == "email":
        return lambda rng: f"{rng.choice(_WORDS)}.{rng.randrange(1000)}@people.example"
    if schema.get("format") == "date-time":
        return lambda rng: (
            f"2026-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}T{rng.randrange(24):02}:00:00Z"
        )
    chars_max = schema.get("maxLength", 120)
    return lambda rng: text(rng, min(20, chars_max), min(120, chars_max))


def _integer(schema: Mapping[str, Any]) -> Sampler:
    least = schema.get("minimum", 0)
    most = schema.get("maximum", least + 10_000)
    return lambda rng: rng.randint(least, most)


def _boolean(_schema: Mapping[str, Any]) -> Sampler:
    return lambda rng: rng.random() < 0.5


_SAMPLERS: Mapping[str, Callable[[Mapping[str, Any]], Sampler]] = {
    "object": _object,
    "array": _array,
    "string": _string,
    "integer": _integer,
    "boolean": _boolean,
}
