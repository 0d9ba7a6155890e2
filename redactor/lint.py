"""What a person should know of a document before its traffic is recorded: coverage, and findings about its marks.

Pure: takes loaded documents and the configuration, returns a report. Nothing here depends on traffic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from redactor.baseline import CHANGES_MAX, changes_between
from redactor.collisions import Collision, Relation, collisions_of
from redactor.config import RedactionConfig
from redactor.coverage import OperationCoverage, Tally, by_side, coverage_of, total
from redactor.decisions import Step, StepKind, Verdict
from redactor.document import LoadedDocument
from redactor.inert import Heard, inert_marks
from redactor.lint_checks import Finding, Level
from redactor.lint_ignore import IgnoreEntry
from redactor.marks import Census, census, sites_of
from redactor.misspelt import misspelt_keywords
from redactor.schema_tree import Position
from redactor.secret_names import format_secrecy, looks_secret, may_hold_secret
from redactor.surface import BODY_SIDES, Side, Surface

FINDINGS_MAX = 50_000
_CODE_OF_SURENESS = {"sure": "secret_recorded", "likely": "secret_likely"}
# Names that say nothing of what they hold: whatever holds them does.
_GENERIC = frozenset({"value", "values", "data", "text", "content", "raw"})


@dataclass(frozen=True)
class Ignored:
    """A finding that the ignore file covers, and the reason it gives."""

    finding: Finding
    reason: str


@dataclass(frozen=True)
class LintReport:
    """All that lint has to say of one document."""

    digest: str
    operations: tuple[OperationCoverage, ...]
    census: Census
    collisions: Mapping[Relation, int]
    findings: tuple[Finding, ...]
    """What is to be looked at, in the order of the checks."""
    ignored: tuple[Ignored, ...]

    @property
    def sides(self) -> Mapping[Side, Tally]:
        """Coverage by side, over all operations."""
        return by_side(self.operations)

    @property
    def coverage(self) -> Tally:
        """Coverage of all bodies together, the figure that a threshold is held against."""
        return total([self.sides[side] for side in BODY_SIDES])

    @property
    def products(self) -> Mapping[str, Sequence[OperationCoverage]]:
        """The operations by product, in alphabetical order."""
        grouped: dict[str, list[OperationCoverage]] = {}
        for each in self.operations:
            grouped.setdefault(each.product, []).append(each)
        return dict(sorted(grouped.items()))

    def worst(self) -> Level | None:
        """Return the highest level of what is to be looked at."""
        return max((each.level for each in self.findings), default=None)


def lint(
    document: LoadedDocument,
    config: RedactionConfig,
    baseline: LoadedDocument | None = None,
    ignore: Sequence[IgnoreEntry] = (),
) -> LintReport:
    """Look through a document as `config` would apply it, compared with `baseline` where that is given."""
    surface = Surface(document, config)
    operations = coverage_of(surface)
    sites = sites_of(document)
    collisions = list(collisions_of(surface.operations))
    found = [
        *_secrets(operations),
        *_changes(operations, baseline, config),
        *inert_marks(document, sites, Heard(operations)),
        *_unaudited(operations),
        *_collisions(collisions),
        *_unreachable(surface, operations),
        *misspelt_keywords(document),
        *_untrusted(document),
    ]
    left, ignored = _apply(ignore, list(dict.fromkeys(islice(found, FINDINGS_MAX))))
    return LintReport(
        digest=document.digest,
        operations=operations,
        census=census(document, sites),
        collisions=Counter(each.relation for each in collisions),
        findings=tuple(left),
        ignored=tuple(ignored),
    )


def _secrets(operations: Iterable[OperationCoverage]) -> Iterator[Finding]:
    """Yield the kept leaves whose name or format looks secret, each where its schema stands."""
    seen: set[tuple[Position, str]] = set()
    for operation in operations:
        for body, _ in operation.bodies:
            if body.root is not None:
                yield from _secrets_below(body.root, seen)
        for leaf in operation.parameters:
            name = leaf.path.strip("{}")
            if leaf.decision.verdict is Verdict.KEPT:
                yield from _secret(name, leaf.kind, leaf.nodes, leaf.decision.pointer)


def _secrets_below(root: Position, seen: set[tuple[Position, str]]) -> Iterator[Finding]:
    waiting = [(root, "")]
    while waiting:
        position, name = waiting.pop()
        if (position, name) in seen:
            continue
        seen.add((position, name))
        if position.is_leaf and position.decision.verdict is Verdict.KEPT:
            yield from _secret(name, position.kind, position.nodes, position.pointer)
        waiting.extend((child, _name_at(step, name)) for step, child in reversed(position.children))


def _name_at(step: Step, above: str) -> str:
    is_telling = step.kind is StepKind.PROPERTY and step.text.lower() not in _GENERIC
    return step.text if is_telling or (step.kind is StepKind.PROPERTY and not above) else above


def _secret(name: str, kind: str, nodes: Sequence[Mapping[str, Any]], pointer: str) -> Iterator[Finding]:
    if not may_hold_secret(kind, nodes):
        return
    by_name, by_format = looks_secret(name), format_secrecy(nodes)
    sureness = "sure" if "sure" in (by_name, by_format) else by_name or by_format
    if sureness is not None:
        reason = "by its name" if by_name == sureness else "by its format or as write-only"
        yield Finding(_CODE_OF_SURENESS[sureness], pointer, f"{name} is recorded; {reason} it may be secret")


def _changes(
    operations: Sequence[OperationCoverage], baseline: LoadedDocument | None, config: RedactionConfig
) -> Iterator[Finding]:
    if baseline is None:
        return
    before = coverage_of(Surface(baseline, config))
    for change in islice(changes_between(before, operations), CHANGES_MAX):
        code = "newly_exposed" if change.exposed else "newly_hidden"
        yield Finding(code, change.pointer, f"{change.operation}: {change.where}: {change.path}")


def _unaudited(operations: Iterable[OperationCoverage]) -> Iterator[Finding]:
    for operation in operations:
        if operation.operation.denied:
            continue
        for side in (Side.REQUEST, Side.RESPONSE):
            tally = operation.side(side)
            if tally.leaves and not tally.kept:
                message = f"{operation.name}: of the {side} nothing is recorded ({tally.leaves} leaves)"
                yield Finding("nothing_audited", operation.operation.place.pointer, message)


def _collisions(collisions: Iterable[Collision]) -> Iterator[Finding]:
    for each in collisions:
        if each.relation is Relation.SHADOWED:
            template = each.first[0].template
            for operation in each.only_second:
                message = f"{operation.method} {template} is governed by {operation.template}"
                yield Finding("route_method_gap", operation.place.pointer, message)
        else:
            code = "route_twins" if each.relation is Relation.TWINS else "route_crosswise"
            for one, other in each.shared:
                message = f"{one.method} {one.template} and {other.template} match common URLs"
                yield Finding(code, one.place.pointer, message)


def _unreachable(surface: Surface, operations: Iterable[OperationCoverage]) -> Iterator[Finding]:
    reached = {each.name for each in operations}
    for operation in surface.operations:
        name = f"{operation.method} {operation.template}"
        if name not in reached:
            yield Finding("route_unreachable", operation.place.pointer, f"no request reaches {name}")


def _untrusted(document: LoadedDocument) -> Iterator[Finding]:
    for finding in document.findings:
        yield Finding("untrusted", finding.pointer, finding.code.replace("_", " "))


def _apply(
    entries: Sequence[IgnoreEntry], findings: Sequence[Finding]
) -> tuple[list[Finding], list[Ignored]]:
    left: list[Finding] = []
    ignored: list[Ignored] = []
    used: set[IgnoreEntry] = set()
    for finding in findings:
        covering = [each for each in entries if each.covers(finding)]
        used.update(covering)
        if covering:
            ignored.append(Ignored(finding, covering[0].reason))
        else:
            left.append(finding)
    for number, entry in enumerate(entries, 1):
        if entry not in used:
            message = f"entry {number} of the ignore file ({entry.code}, {entry.location}) matches nothing"
            left.append(Finding("ignore_unused", "", message))
    return left, ignored
