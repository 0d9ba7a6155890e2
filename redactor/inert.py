"""Marks that do not do what whoever wrote them may think: told from what the positions they speak about become."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from redactor.branches import is_denied, is_marked
from redactor.coverage import OperationCoverage
from redactor.decisions import Decision, Verdict
from redactor.document import LoadedDocument
from redactor.lint_checks import Finding
from redactor.marks import Shape, Site, Thing, shape_of
from redactor.schema_tree import Position

_CONTAINERS = frozenset({Shape.OBJECT, Shape.ARRAY_OF_OTHERS})
_CODE_OF_RULE = {
    5: "inert_denied",
    4: "inert_type",
    6: "inert_enum",
    12: "inert_envelope",
    7: "inert_composition",
}
_MESSAGES = {
    "inert_container": "the mark shows that the container was there; its parts are kept by their own marks",
    "inert_empty": "the mark shows that the container was there, and nothing in it is marked",
    "inert_reference": "the mark beside a $ref grants nothing; put it on what is referred to",
    "inert_condition": "the mark stands where schemas only deny",
}
_RANKS = {Verdict.DROPPED: 0, Verdict.PRESENCE: 1, Verdict.KEPT: 2}


class Heard:
    """For every marked node, the best that becomes of any position that it speaks about."""

    def __init__(self, operations: Iterable[OperationCoverage]) -> None:
        self._best: dict[int, Decision] = {}
        seen: set[Position] = set()
        for operation in operations:
            for leaf in operation.parameters:
                self._hear(filter(is_marked, leaf.nodes), leaf.decision)
            for body, _ in operation.bodies:
                if body.root is not None:
                    self._walk(body.root, seen)

    def _walk(self, root: Position, seen: set[Position]) -> None:
        waiting = [root]
        while waiting:
            position = waiting.pop()
            if position not in seen:
                seen.add(position)
                marked = position.marked_nodes
                if marked:
                    self._hear(marked, position.decision)
                waiting.extend(child for _, child in position.children)

    def _hear(self, nodes: Iterable[Mapping[str, Any]], decision: Decision) -> None:
        for node in nodes:
            known = self._best.get(id(node))
            if known is None or _RANKS[decision.verdict] > _RANKS[known.verdict]:
                self._best[id(node)] = decision

    def of(self, node: Mapping[str, Any]) -> Decision | None:
        """Return what became of a mark; None where no body or parameter that is read has it."""
        return self._best.get(id(node))


def inert_marks(document: LoadedDocument, sites: Sequence[Site], heard: Heard) -> Iterator[Finding]:
    """Yield a finding for every mark that grants nothing, or less than its content."""
    for site in sites:
        node, pointer = site.place
        declared = node.get("x-auditable", True)
        if not isinstance(declared, bool):
            yield Finding("value_denies", pointer, "x-auditable is neither true nor false, and so denies")
        if site.is_mark:
            code = _code_of(document, site, heard)
            if code is not None:
                yield Finding(code, pointer, _message(code, site, heard.of(node)))


def _code_of(document: LoadedDocument, site: Site, heard: Heard) -> str | None:
    node = site.place.node
    if site.thing not in (Thing.SCHEMA, Thing.DENYING_SCHEMA, Thing.PARAMETER):
        return "inert_place"
    if site.thing is Thing.PARAMETER and "$ref" not in node and node.get("in") not in ("query", "path"):
        return "inert_place"
    if is_denied(node):
        return "inert_denied"
    if site.thing is Thing.DENYING_SCHEMA:
        return "inert_condition"
    if "$ref" in node and (document.is_3_0 or site.thing is Thing.PARAMETER):
        return "inert_reference"
    return _code_heard(document, site, heard.of(node))


def _code_heard(document: LoadedDocument, site: Site, became: Decision | None) -> str | None:
    if became is None:
        return "inert_unread"
    if became.verdict is Verdict.DROPPED:
        return _CODE_OF_RULE.get(became.rule, "inert_unread")
    if became.verdict is Verdict.PRESENCE:
        return "inert_empty"
    inherits = document.config.container_marks == "inherit"
    return "inert_container" if not inherits and shape_of(document, site) in _CONTAINERS else None


def _message(code: str, site: Site, became: Decision | None) -> str:
    if code == "inert_place":
        return f"where the mark stands ({site.thing}) it grants nothing"
    if code in _MESSAGES:
        return _MESSAGES[code]
    if became is None:
        return "no body that is read has this mark: it is of GET alone or of nothing"
    return f"the mark grants nothing: {became.words}"
