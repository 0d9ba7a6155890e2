"""The checks on single keywords: marks without effect, and keywords that resemble a mark or a denial."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from redactor.openapi.document import OpenApiDocument
from redactor.openapi.marks import is_denied, is_marked
from redactor.report.coverage import OperationCoverage
from redactor.report.decisions import Decision, Outcome
from redactor.report.findings import Finding
from redactor.report.mark_census import (
    DocumentNode,
    NodeKind,
    Shape,
    document_nodes,
    mappings_of,
    shape_of,
)
from redactor.report.schema_tree import Position

_CONTAINERS = frozenset({Shape.OBJECT, Shape.ARRAY_OF_OTHERS})
_CODE_OF_RULE = {
    5: "inert_denied",
    4: "inert_type",
    6: "inert_enum",
    12: "inert_envelope",
    7: "inert_composition",
}
_MESSAGES = {
    "inert_container": "the mark records only that the container was present; its parts need marks of their own",
    "inert_empty": "the mark records only that the container was present, and nothing in it is marked",
    "inert_reference": "the mark beside a $ref has no effect; move it to the referenced schema",
    "inert_condition": "the mark is in a schema that can only deny",
}
_RANKS = {Outcome.DROPPED: 0, Outcome.PRESENCE: 1, Outcome.KEPT: 2}

_KEYWORDS = ("x-auditable", "x-sensitive")
_MISSPELT_CODES = {"x-auditable": "mark_misspelt", "x-sensitive": "denial_misspelt"}
_WITHOUT_PREFIX = {"auditable": "x-auditable", "sensitive": "x-sensitive"}
# Two letters exchanged are two edits.
_EDITS_MAX = 2


class MarkEffects:
    """For each marked node, the best outcome among all positions to which it applies.

    Nodes are known by identity: the same schema may be reached through several references.
    """

    def __init__(self, operations: Iterable[OperationCoverage]) -> None:
        self._best: dict[int, Decision] = {}
        visited: set[Position] = set()
        for operation in operations:
            for field in operation.parameters:
                self._record(filter(is_marked, field.nodes), field.decision)
            for body, _ in operation.bodies:
                if body.root is not None:
                    self._record_tree(body.root, visited)

    def _record_tree(self, root: Position, visited: set[Position]) -> None:
        waiting = [root]
        while waiting:
            position = waiting.pop()
            if position in visited:
                continue
            visited.add(position)
            marked = position.marked_nodes
            if marked:
                # Deciding takes time, and most positions have no mark.
                self._record(marked, position.decision)
            waiting.extend(child for _, child in position.children)

    def _record(self, nodes: Iterable[Mapping[str, Any]], decision: Decision) -> None:
        for node in nodes:
            known = self._best.get(id(node))
            if known is None or _RANKS[decision.outcome] > _RANKS[known.outcome]:
                self._best[id(node)] = decision

    def of(self, node: Mapping[str, Any]) -> Decision | None:
        """Return the best decision for a marked node; None if no body or parameter that is read contains it."""
        return self._best.get(id(node))


def marks_without_effect(
    document: OpenApiDocument, annotated: Sequence[DocumentNode], effects: MarkEffects
) -> Iterator[Finding]:
    """Yield a finding for every mark that records nothing, or only the presence of its container.

    `annotated`: the nodes of `document` that carry a mark or a denial.
    """
    for each in annotated:
        node, pointer = each.place
        if not isinstance(node.get("x-auditable", True), bool):
            yield Finding(
                "value_denies", pointer, "x-auditable is neither true nor false, and therefore denies"
            )
        if each.is_mark:
            effect = effects.of(node)
            code = _code_by_place(document, each) or _code_by_effect(document, each, effect)
            if code is not None:
                yield Finding(code, pointer, _message(code, each, effect))


def _code_by_place(document: OpenApiDocument, marked: DocumentNode) -> str | None:
    """Return the code for a mark that can have no effect where it is, whatever bodies contain it."""
    node = marked.place.node
    if marked.kind not in (NodeKind.SCHEMA, NodeKind.DENYING_SCHEMA, NodeKind.PARAMETER):
        return "inert_place"
    is_parameter = marked.kind is NodeKind.PARAMETER
    if is_parameter and "$ref" not in node and node.get("in") not in ("query", "path"):
        return "inert_place"
    if is_denied(node):
        return "inert_denied"
    if marked.kind is NodeKind.DENYING_SCHEMA:
        return "inert_condition"
    if "$ref" in node and (document.is_3_0 or is_parameter):
        return "inert_reference"
    return None


def _code_by_effect(document: OpenApiDocument, marked: DocumentNode, effect: Decision | None) -> str | None:
    if effect is None:
        return "inert_place" if marked.in_header else "inert_unread"
    if effect.outcome is Outcome.DROPPED:
        return _CODE_OF_RULE.get(effect.rule, "inert_unread")
    if effect.outcome is Outcome.PRESENCE:
        return "inert_empty"
    inherits = document.config.container_marks == "inherit"
    return "inert_container" if not inherits and shape_of(document, marked) in _CONTAINERS else None


def _message(code: str, marked: DocumentNode, effect: Decision | None) -> str:
    if code == "inert_place" and marked.in_header:
        return "a mark on a header or cookie, or on its schema, has no effect"
    if code == "inert_place":
        return f"a mark on this kind of node ({marked.kind}) has no effect"
    if code in _MESSAGES:
        return _MESSAGES[code]
    if effect is None:
        return "no body that auditap reads contains this mark"
    return f"the mark has no effect: {effect.reason}"


def misspelt_keywords(document: OpenApiDocument) -> Iterator[Finding]:
    """Yield a finding for every keyword that resembles `x-auditable` or `x-sensitive` and is neither."""
    # Walking with pointers is slow, so look first whether the document has any such name at all.
    if not any(_intended_keyword(name) for node in mappings_of(document.root) for name in node):
        return
    for each in document_nodes(document):
        for name, value in each.place.node.items():
            intended = _intended_keyword(name)
            # Without the prefix the name may be somebody's own extension, unless its value is a boolean.
            if intended is not None and (name.lower() not in _WITHOUT_PREFIX or isinstance(value, bool)):
                message = f"{name} has no effect; was {intended} intended?"
                yield Finding(_MISSPELT_CODES[intended], each.place.child(name).pointer, message)


@lru_cache(maxsize=4096)
def _intended_keyword(name: str) -> str | None:
    """Return the keyword that a name resembles; None for the keyword itself and for every other name."""
    if name in _KEYWORDS or not 8 <= len(name) <= 14:
        return None
    plain = name.lower().replace("_", "-")
    if plain in _WITHOUT_PREFIX:
        return _WITHOUT_PREFIX[plain]
    if not plain.startswith("x"):
        return None
    return next((each for each in _KEYWORDS if _edit_distance(plain, each) <= _EDITS_MAX), None)


def _edit_distance(one: str, other: str) -> int:
    """Return the Levenshtein distance: insertions, deletions and substitutions between two texts."""
    row = list(range(len(other) + 1))
    for row_number, character in enumerate(one, 1):
        diagonal, row[0] = row[0], row_number
        for column, expected in enumerate(other, 1):
            substituted = diagonal + (character != expected)
            diagonal, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, substituted)
    return row[-1]
