"""One OpenAPI document as it was read: its tree, a digest of its text, and findings about what cannot be trusted.

`load_document` reads JSON or YAML. Real documents are imperfect: whatever can be trusted is used, the rest denies and
is reported as a finding. Only a file that is no OpenAPI 3.0 or 3.1 document at all is an error.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import yaml

from redactor.config import DocumentConfig
from schemas.error_lines import error_line
from schemas.errors import StartupError

FINDINGS_MAX = 10_000
DOCUMENT_BYTES_MAX = 134_217_728
_COMPOSED_NODES_MAX = 10_000
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u([dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)
"""An escape of a JSON text; the group holds a surrogate that stands alone."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
EXTERNAL_REFERENCE = "external_reference"
"""The code of a finding about a reference to another file, which is not read."""
UNTRUSTED = "\0untrusted"
"""A key that the parser adds to a mapping with ambiguous keys: the mapping may not hold all that the text says."""


@dataclass(frozen=True, slots=True, eq=False)
class RepeatedKeys:
    """The value at UNTRUSTED where the only thing wrong with a mapping is that it holds some keys more than once."""

    earlier: Mapping[str, Sequence[Any]] = field(repr=False)
    """By repeated key, the values it had before the last one, in order."""


class Finding(NamedTuple):
    """A part of the document that cannot be trusted and therefore denies."""

    pointer: str
    """A JSON pointer into the document."""
    code: str


class Findings:
    """The findings of one document, each once, at most FINDINGS_MAX. Compiling an operation may add to them."""

    def __init__(self) -> None:
        self._found: dict[Finding, None] = {}

    def add(self, pointer: str, code: str) -> None:
        if len(self._found) < FINDINGS_MAX:
            self._found[Finding(pointer, code)] = None

    def __iter__(self) -> Iterator[Finding]:
        return iter(tuple(self._found))

    def __len__(self) -> int:
        return len(self._found)


class Place(NamedTuple):
    """One place in the document: the node that stands there, and the JSON pointer to it."""

    node: Any
    pointer: str

    def child(self, *steps: str | int) -> Place:
        """Return the place that `steps` lead to; its node is None where the document holds nothing there."""
        node, pointer = self
        for step in steps:
            node = _step(node, step)
            pointer += "/" + str(step).replace("~", "~0").replace("/", "~1")
        return Place(node, pointer)


def _step(node: Any, step: str | int) -> Any:
    if isinstance(node, dict):
        return node.get(step)
    # Longer ones are no index, and Python refuses to parse thousands of digits.
    if isinstance(node, list) and str(step).isdecimal() and len(str(step)) < 10:
        return node[int(step)] if int(step) < len(node) else None
    return None


@dataclass(frozen=True, eq=False)
class OpenApiDocument:
    """A parsed document. Its tree never changes after loading, and redacting a pair never looks into it."""

    config: DocumentConfig
    digest: str
    """The first 32 hex digits of the SHA-256 of the file's bytes."""
    is_3_0: bool
    root: Mapping[str, Any] = field(repr=False)
    findings: Findings = field(repr=False)

    def resolve(self, reference: object) -> Place | None:
        """Return what a `$ref` points at; None where that is not in this document, or not there for certain."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            return None
        pointer = unquote(reference[1:])
        if pointer and not pointer.startswith("/"):
            return None
        found = Place(self.root, "")
        for step in pointer.split("/")[1:]:
            # A repeated key may name either of its values.
            if isinstance(found.node, dict) and UNTRUSTED in found.node:
                return None
            found = found.child(step.replace("~1", "/").replace("~0", "~"))
        return None if found.node is None else found

    def resolve_mapping(self, name: Any) -> Place | None:
        """Return the schema that a discriminator's mapping names, by a reference or by its bare component name."""
        if not isinstance(name, str):
            return None
        return self.resolve(name if "#" in name else f"#/components/schemas/{name}")

    def extensions_of(self, node: Mapping[str, Any]) -> tuple[Place, ...]:
        """Return the named schemas that refer to `node` or compose it, directly or through others.

        A discriminator on `node` may select any of them by name.
        """
        found: dict[int, Place] = {}
        pending = [*self._direct_extensions.get(id(node), ())]
        while pending:
            place = pending.pop()
            if id(place.node) not in found:
                found[id(place.node)] = place
                pending.extend(self._direct_extensions.get(id(place.node), ()))
        return tuple(found.values())

    @cached_property
    def _direct_extensions(self) -> Mapping[int, Sequence[Place]]:
        """By the id of a schema's node, the named schemas that refer to it or compose it themselves."""
        found: dict[int, list[Place]] = {}
        schemas = self.resolve("#/components/schemas")
        names = schemas.node if schemas is not None and isinstance(schemas.node, dict) else ()
        for name in names:
            place = Place(self.root, "").child("components", "schemas", name)
            for composed in self._composed_by(place.node):
                found.setdefault(id(composed), []).append(place)
        return found

    def _composed_by(self, schema: Any) -> Iterator[Any]:
        """Yield the nodes that a schema refers to, itself or in branches within branches, each once."""
        seen: set[int] = set()
        pending = [schema]
        for _ in range(_COMPOSED_NODES_MAX):
            if not pending:
                return
            node = pending.pop()
            if not isinstance(node, dict):
                continue
            target = self.resolve(node["$ref"]) if "$ref" in node else None
            if target is not None and id(target.node) not in seen:
                seen.add(id(target.node))
                yield target.node
                # A target without a component name of its own may refer on.
                if isinstance(target.node, dict) and "$ref" in target.node:
                    pending.append(target.node)
            for keyword in ("allOf", "oneOf", "anyOf"):
                branches = node.get(keyword)
                if isinstance(branches, list):
                    pending.extend(branches)

    def follow(self, place: Place) -> tuple[Place, ...]:
        """Return the chain of `$ref` objects that starts at `place`; the last one is what `place` stands for.

        The chain is empty, and a finding is added, where a reference is broken or circular, or does not end at a mapping.
        """
        chain: list[Place] = []
        seen: set[int] = set()
        following: Place | None = place
        while following is not None and isinstance(following.node, dict) and id(following.node) not in seen:
            chain.append(following)
            seen.add(id(following.node))
            if "$ref" not in following.node:
                return tuple(chain)
            following = self.resolve(following.node["$ref"])
        last = chain[-1].node if chain else {}
        self.findings.add(place.pointer, broken_reference(last.get("$ref")))
        return ()


def broken_reference(reference: object) -> str:
    """Return the code of the finding about a `$ref` that leads nowhere."""
    is_external = isinstance(reference, str) and not reference.startswith("#")
    return EXTERNAL_REFERENCE if is_external else "broken_reference"


def load_document(config: DocumentConfig) -> OpenApiDocument:
    """Read and parse the document that `config` names.

    Raises StartupError, one sentence, where the file cannot be read or is no OpenAPI 3.0 or 3.1 document. Anything else
    that is wrong with it denies and becomes a finding.
    """
    return parse_document(config, _read(config.path))


def _read(path: Path) -> bytes:
    try:
        text = path.read_bytes()
    except OSError as error:
        reason = error.strerror
    else:
        if len(text) <= DOCUMENT_BYTES_MAX:
            return text
        reason = f"larger than {DOCUMENT_BYTES_MAX} bytes"
    raise StartupError(f"The OpenAPI document {path} cannot be read: {reason}.")


def parse_document(config: DocumentConfig, text: bytes) -> OpenApiDocument:
    """Parse the document that `text` holds. Raises StartupError as `load_document` does."""
    root = _parse(text, config.path)
    if not isinstance(root, dict):
        raise StartupError(f"The OpenAPI document {config.path} is not a JSON or YAML object.")
    version = str(root.get("openapi", ""))
    if not version.startswith(("3.0", "3.1")):
        raise StartupError(f"The OpenAPI document {config.path} must say openapi: 3.0 or 3.1.")
    digest = hashlib.sha256(text).hexdigest()[:32]
    return OpenApiDocument(config, digest, version.startswith("3.0"), root, Findings())


def _parse(text: bytes, path: Path) -> Any:
    as_json = path.suffix.lower() == ".json" or text.lstrip()[:1] == b"{"
    kind, line = "JSON" if as_json else "YAML", None
    try:
        if as_json:
            decoded = _without_lone_surrogates(text.decode("utf-8-sig"))
            return json.loads(decoded, object_pairs_hook=_mapping)
        return yaml.load(text, Loader=_Yaml12)  # noqa: S506  constructs plain data only
    except RecursionError:
        reason = "is nested too deep"
    except (ValueError, yaml.YAMLError) as error:
        line = error_line(error)
        reason = f"is not well-formed {kind}"
    # Outside the handlers: what was caught may hold the text.
    place = f"{path}, line {line}," if line else f"{path}"
    raise StartupError(f"The OpenAPI document {place} {reason}.")


def _without_lone_surrogates(text: str) -> str:
    """Return a JSON text in which U+FFFD stands for each lone surrogate: no event could be written with one in it."""
    if _SURROGATE.search(text) is None:
        return text
    return _ESCAPE.sub(lambda escape: r"\ufffd" if escape[1] else escape[0], text)


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        mapping.setdefault(UNTRUSTED, RepeatedKeys(_earlier_values(pairs)))
    return mapping


def _earlier_values(pairs: Iterable[tuple[str, Any]]) -> dict[str, list[Any]]:
    last: dict[str, Any] = {}
    earlier: dict[str, list[Any]] = {}
    for name, value in pairs:
        if name in last:
            earlier.setdefault(name, []).append(last[name])
        last[name] = value
    return earlier


def is_same_json(one: Any, other: Any) -> bool:
    """Whether two parts of a document are the same JSON; Python takes `true`, `1` and `1.0` for equal."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_same_json(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(is_same_json, one, other))
    return bool(one == other)


class _Yaml12(yaml.CSafeLoader):
    """YAML with the scalars of the 1.2 core schema: `on`, `yes` and dates are text, and so is every key."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  the base class has it so


def _construct_mapping(loader: _Yaml12, node: yaml.MappingNode) -> Iterator[dict[str, Any]]:
    """Yield the mapping before it is filled, because aliases within it may refer to it."""
    mapping: dict[str, Any] = {}
    yield mapping
    pairs = []
    for key, value in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else UNTRUSTED
        # A merge may bring a denial along, so a mapping that merges does not show all that it holds.
        if name == "<<":
            mapping[UNTRUSTED] = True
        mapping[name] = loader.construct_object(value, deep=True)
        pairs.append((name, mapping[name]))
    if earlier := _earlier_values(pairs):
        mapping.setdefault(UNTRUSTED, RepeatedKeys(earlier))


_CORE_SCHEMA = (
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"(?:~|null|Null|NULL|)$", ("~", "n", "N", "")),
    ("int", r"(?:0|[-+]?[1-9][0-9]*)$", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+0123456789."),
)
for _tag, _pattern, _firsts in _CORE_SCHEMA:
    _Yaml12.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_firsts))
_Yaml12.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
