"""One OpenAPI document as it was read: its text's digest, its tree, and what of it could not be trusted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from redactor.config import DocumentConfig
from schemas.errors import StartupError

FINDINGS_MAX = 10_000
DOCUMENT_BYTES_MAX = 134_217_728
UNTRUSTED = "\0untrusted"
"""Key that stands in a mapping whose own keys are ambiguous: nothing in it is trusted to be all there is."""


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


@dataclass(frozen=True, slots=True)
class LoadedDocument:
    """A document's tree, never changed after loading; no mapping is looked into while a pair is walked."""

    config: DocumentConfig
    digest: str
    """The first 32 hex digits of the SHA-256 of the file's bytes."""
    is_3_0: bool
    root: Mapping[str, Any] = field(repr=False)
    findings: Findings = field(repr=False, compare=False)


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
        return _parse_json(text) if as_json else yaml.load(text, Loader=_Yaml12)  # noqa: S506  a safe loader
    except (ValueError, yaml.YAMLError, RecursionError):
        kind = "JSON" if as_json else "YAML"
    raise StartupError(f"The OpenAPI document {path} is not well-formed {kind}, or nested too deep.")


def _parse_json(text: bytes) -> Any:
    return json.loads(text.decode("utf-8-sig"), object_pairs_hook=_mapping)


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        mapping[UNTRUSTED] = True
    return mapping


class _Yaml12(yaml.CSafeLoader):
    """YAML with the scalars of its 1.2 core schema: `on`, `yes` and dates are text, and every key is text."""


def _construct_mapping(loader: _Yaml12, node: yaml.MappingNode) -> Iterator[dict[str, Any]]:
    mapping: dict[str, Any] = {}
    yield mapping
    for key, value in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else UNTRUSTED
        # A merge could bring a denial along; where one stands, nothing beside it is the whole truth.
        if name == "<<" or name in mapping:
            mapping[UNTRUSTED] = True
        mapping[name] = loader.construct_object(value, deep=True)  # type: ignore[no-untyped-call]


def _install_core_schema() -> None:
    resolvers: dict[str | None, list[Any]] = {}
    core = [
        ("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
        ("tag:yaml.org,2002:null", r"^(?:~|null|Null|NULL|)$", "~nN"),
        ("tag:yaml.org,2002:int", r"^[-+]?[0-9]+$", "-+0123456789"),
        ("tag:yaml.org,2002:float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+0123456789."),
    ]
    import re  # noqa: PLC0415

    for tag, pattern, firsts in core:
        for first in firsts:
            resolvers.setdefault(first, []).append((tag, re.compile(pattern)))
    resolvers.setdefault("", []).append(("tag:yaml.org,2002:null", re.compile(r"^$")))
    _Yaml12.yaml_implicit_resolvers = resolvers
    _Yaml12.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
