"""The check for recorded fields that look like secrets, by name or format. It guesses; a person decides."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from redactor.report.coverage import OperationCoverage
from redactor.report.decisions import Outcome, Step, StepKind
from redactor.report.findings import Finding
from redactor.report.schema_tree import Position


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Splits snake_case, camelCase and acronyms: `dbAPIKey2` gives db, API, Key, 2.
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SURE = _words(
    "password passwords passwd pwd passphrase passcode secret secrets credential credentials authorization "
    "cookie cookies jwt bearer mnemonic cvv cvc ssn apikey"
)
_SURE_PAIRS = frozenset(
    {("private", "key"), ("api", "key"), ("access", "key"), ("shared", "key"), ("signing", "key")}
)
_LIKELY = _words("token tokens key keys auth signature otp pin seed salt session")
# A name that ends in one of these describes a secret and does not hold it: `token_id`, `password_updated_at`.
_ABOUT = _words(
    "id ids uuid identifier name names tag type kind count number total limit size length bits algorithm alg at on "
    "expires expiry expiration ttl age days date time enabled disabled required allowed exists status state version "
    "url uri endpoint location path format policy mode scope scopes usage description comment hint prefix "
    "rotation order operator since until duration suffix domain"
)
_FORMATS = _words("secret token jwt api-key apikey private-key credential credentials")
_HARMLESS_KINDS = frozenset({"boolean", "integer", "number"})
# These names say nothing about the value, so the name of the container is judged instead.
_GENERIC_NAMES = _words("value values data text content raw")
_CODE_OF_SURENESS = {"sure": "secret_recorded", "likely": "secret_likely"}


def secret_fields(operations: Iterable[OperationCoverage]) -> Iterator[Finding]:
    """Yield a finding for every recorded field that looks like a secret, located at the field's schema."""
    visited: set[tuple[Position, str]] = set()
    for operation in operations:
        for body, _ in operation.bodies:
            if body.root is not None:
                yield from _secrets_below(body.root, visited)
        for field in operation.parameters:
            if field.decision.outcome is Outcome.KEPT:
                name = field.path.strip("{}")
                yield from _secret(name, field.kind, field.nodes, field.decision.pointer)


def _secrets_below(root: Position, visited: set[tuple[Position, str]]) -> Iterator[Finding]:
    # A schema that several bodies share is judged once for each name that it has there.
    waiting = [(root, "")]
    while waiting:
        position, name = waiting.pop()
        if (position, name) in visited:
            continue
        visited.add((position, name))
        if position.is_field and position.decision.outcome is Outcome.KEPT:
            yield from _secret(name, position.kind, position.nodes, position.pointer)
        waiting.extend((child, _name_below(name, step)) for step, child in reversed(position.children))


def _name_below(parent_name: str, step: Step) -> str:
    """Return the name by which a part is judged: its own, or its parent's where its own says nothing."""
    if step.kind is not StepKind.PROPERTY:
        return parent_name
    is_generic = step.text.lower() in _GENERIC_NAMES
    return parent_name if is_generic and parent_name else step.text


def _secret(name: str, kind: str, nodes: Sequence[Mapping[str, Any]], pointer: str) -> Iterator[Finding]:
    if not _may_hold_secret(kind, nodes):
        return
    by_name, by_format = secrecy_of_name(name), _secrecy_of_format(nodes)
    sureness = "sure" if "sure" in (by_name, by_format) else by_name or by_format
    if sureness is not None:
        cause = "its name" if by_name == sureness else "its format or writeOnly"
        message = f"{name} is recorded; judging by {cause}, it may hold a secret"
        yield Finding(_CODE_OF_SURENESS[sureness], pointer, message)


def secrecy_of_name(name: str) -> str | None:
    """Return `sure` or `likely` if a field of this name probably holds a secret, and None otherwise."""
    words = [word.lower() for word in _WORD.findall(name)]
    # The last word names the thing: a `token_id` is an id, an `id_token` is a token.
    if not words or words[-1] in _ABOUT or "public" in words:
        return None
    if _SURE & set(words) or _SURE_PAIRS & set(pairwise(words)):
        return "sure"
    return "likely" if words[-1] in _LIKELY else None


def _secrecy_of_format(nodes: Sequence[Mapping[str, Any]]) -> str | None:
    """Return `sure` if the format of a schema names a secret, `likely` if it is write-only, and None otherwise."""
    if any(str(node.get("format")) in _FORMATS for node in nodes):
        return "sure"
    return "likely" if any(node.get("writeOnly") is True for node in nodes) else None


def _may_hold_secret(kind: str, nodes: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a value can be secret at all: flags, numbers and values that the document lists cannot."""
    if set(kind.split("|")) <= _HARMLESS_KINDS:
        return False
    return not any("enum" in node or "const" in node for node in nodes)
