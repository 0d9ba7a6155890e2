"""One OpenAPI document as it was read: its text's digest, its tree, and what of it could not be trusted."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import yaml

from redactor.config import DocumentConfig
from schemas.errors import StartupError

FINDINGS_MAX = 10_000
_BASES_MAX = 10_000
DOCUMENT_BYTES_MAX = 134_217_728
UNTRUSTED = "\0untrusted"
"""Key that stands in a mapping whose own keys are ambiguous: what is in it may not be all there is."""


@dataclass(frozen=True, slots=True, eq=False)
class Repeated:
    """What stands at UNTRUSTED where nothing else is wrong with a mapping than that names stand in it more than once.

    `earlier`: these names, and what they stood for before the last time.
    """

    earlier: Mapping[str, Sequence[Any]] = field(repr=False)


class Finding(NamedTuple):
    """Something in the document that cannot be trusted and was denied; `pointer` is a JSON pointer into it."""

    pointer: str
    code: str


class Findings:
    """The findings of one document, each once, bounded. Grows as operations are compiled on first use."""

    def __init__(self) -> None:
        self._found: dict[Finding, None] = {}

    def add(self, pointer: str, code: str) -> None:
        """Remember a finding unless it is known or the bound is reached."""
        if len(self._found) < FINDINGS_MAX:
            self._found[Finding(pointer, code)] = None

    def __iter__(self) -> Iterator[Finding]:
        return iter(tuple(self._found))

    def __len__(self) -> int:
        return len(self._found)


class Place(NamedTuple):
    """A node of the document and the JSON pointer to it."""

    node: Any
    pointer: str

    def child(self, *steps: str | int) -> Place:
        """Return the place below, or one that holds None where there is none."""
        node, pointer = self
        for step in steps:
            node = _step(node, step)
            pointer += "/" + str(step).replace("~", "~0").replace("/", "~1")
        return Place(node, pointer)


def _step(node: Any, step: str | int) -> Any:
    if isinstance(node, dict):
        return node.get(step)
    if isinstance(node, list) and str(step).isdecimal() and len(str(step)) < 10:
        return node[int(step)] if int(step) < len(node) else None
    return None


@dataclass(frozen=True, slots=True, eq=False)
class LoadedDocument:
    """A document's tree, never changed after loading; no mapping is looked into while a pair is walked."""

    config: DocumentConfig
    digest: str
    """The first 32 hex digits of the SHA-256 of the file's bytes."""
    is_3_0: bool
    root: Mapping[str, Any] = field(repr=False)
    findings: Findings = field(repr=False)
    _extensions: dict[int, tuple[Place, ...]] = field(default_factory=dict, init=False, repr=False)
    """By schema, the named schemas that refer to it or compose it; found at the first question."""

    def resolve(self, reference: object) -> Place | None:
        """Return what a `$ref` within this document points at; None where it leads nowhere or elsewhere."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            return None
        pointer = unquote(reference[1:])
        if pointer and not pointer.startswith("/"):
            return None
        found = Place(self.root, "")
        for step in pointer.split("/")[1:]:
            # What a repeated key names cannot be told.
            if isinstance(found.node, dict) and UNTRUSTED in found.node:
                return None
            found = found.child(step.replace("~1", "/").replace("~0", "~"))
        return None if found.node is None else found

    def extensions_of(self, node: Mapping[str, Any]) -> tuple[Place, ...]:
        """Return the named schemas that refer to `node` or compose it, also through others: a discriminator names them."""
        if not self._extensions:
            self._extensions[0] = ()
            for base, places in _extensions(self).items():
                self._extensions[base] = tuple(places)
        found: dict[int, Place] = {}
        waiting = [*self._extensions.get(id(node), ())]
        while waiting:
            place = waiting.pop()
            if id(place.node) not in found:
                found[id(place.node)] = place
                waiting.extend(self._extensions.get(id(place.node), ()))
        return tuple(found.values())

    def follow(self, place: Place) -> tuple[Place, ...]:
        """Return the chain of `$ref` objects from `place` to what it stands for, that last.

        Empty, with a finding, where the chain breaks, turns in a circle or ends at something that is no mapping.
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
        self.findings.add(place.pointer, "broken_reference")
        return ()


def _extensions(document: LoadedDocument) -> dict[int, list[Place]]:
    found: dict[int, list[Place]] = {}
    schemas = document.resolve("#/components/schemas")
    for name in schemas.node if schemas is not None and isinstance(schemas.node, dict) else ():
        place = Place(document.root, "").child("components", "schemas", name)
        for base in _bases(document, place.node):
            found.setdefault(id(base), []).append(place)
    return found


def _bases(document: LoadedDocument, schema: Any) -> Iterator[Any]:
    """Yield what a schema refers to and composes: itself, or in branches within branches."""
    waiting = [schema]
    seen: set[int] = set()
    for _ in range(_BASES_MAX):
        node = waiting.pop() if waiting else None
        if not isinstance(node, dict):
            if not waiting:
                return
            continue
        base = document.resolve(node["$ref"]) if "$ref" in node else None
        if base is not None and id(base.node) not in seen:
            seen.add(id(base.node))
            yield base.node
            # What has no name of its own may refer on.
            waiting += [base.node] if isinstance(base.node, dict) and "$ref" in base.node else []
        listed = (node.get(keyword) for keyword in ("allOf", "oneOf", "anyOf"))
        waiting += [branch for branches in listed if isinstance(branches, list) for branch in branches]


def load_document(config: DocumentConfig) -> LoadedDocument:
    """Read and parse the document that `config` names.

    Raises StartupError, one sentence, where it cannot be read or is no OpenAPI 3.0 or 3.1 document. Whatever else
    is wrong with it denies, and stands in the findings.
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


def parse_document(config: DocumentConfig, text: bytes) -> LoadedDocument:
    """Return the document that `text` holds; raises StartupError as `load_document` does."""
    root = _parse(text, config.path)
    if not isinstance(root, dict):
        raise StartupError(f"The OpenAPI document {config.path} is not a JSON or YAML object.")
    version = str(root.get("openapi", ""))
    if not version.startswith(("3.0", "3.1")):
        raise StartupError(f"The OpenAPI document {config.path} must say openapi: 3.0 or 3.1.")
    digest = hashlib.sha256(text).hexdigest()[:32]
    return LoadedDocument(config, digest, version.startswith("3.0"), root, Findings())


def _parse(text: bytes, path: Path) -> Any:
    as_json = path.suffix.lower() == ".json" or text.lstrip()[:1] == b"{"
    try:
        if as_json:
            return json.loads(text.decode("utf-8-sig"), object_pairs_hook=_mapping)
        return yaml.load(text, Loader=_Yaml12)  # noqa: S506  constructs plain data only
    except (ValueError, yaml.YAMLError, RecursionError):
        kind = "JSON" if as_json else "YAML"
    raise StartupError(f"The OpenAPI document {path} is not well-formed {kind}, or nested too deep.")


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        mapping.setdefault(UNTRUSTED, Repeated(_earlier(pairs)))
    return mapping


def _earlier(pairs: Iterable[tuple[str, Any]]) -> dict[str, list[Any]]:
    last: dict[str, Any] = {}
    earlier: dict[str, list[Any]] = {}
    for name, value in pairs:
        if name in last:
            earlier.setdefault(name, []).append(last[name])
        last[name] = value
    return earlier


class _Yaml12(yaml.CSafeLoader):
    """YAML with the scalars of its 1.2 core schema: `on`, `yes` and dates are text, and every key is text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  the base class has it so


def _construct_mapping(loader: _Yaml12, node: yaml.MappingNode) -> Iterator[dict[str, Any]]:
    """Yield the mapping before it is filled, as aliases within it may refer to it."""
    mapping: dict[str, Any] = {}
    yield mapping
    pairs = []
    for key, value in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else UNTRUSTED
        # A merge may bring a denial along, so a mapping that merges is not all there is.
        if name == "<<":
            mapping[UNTRUSTED] = True
        mapping[name] = loader.construct_object(value, deep=True)
        pairs.append((name, mapping[name]))
    if earlier := _earlier(pairs):
        mapping.setdefault(UNTRUSTED, Repeated(earlier))


_CORE_SCHEMA = (
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"(?:~|null|Null|NULL|)$", ("~", "n", "N", "")),
    ("int", r"(?:0|[-+]?[1-9][0-9]*)$", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+0123456789."),
)
for _tag, _pattern, _firsts in _CORE_SCHEMA:
    _Yaml12.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_firsts))
_Yaml12.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
