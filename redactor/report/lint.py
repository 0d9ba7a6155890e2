"""`auditap lint`: reports which fields an OpenAPI document lets auditap record, and which marks have no effect.

A pure function of documents and configuration; no traffic is involved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from redactor.config import RedactionConfig
from redactor.openapi.document import EXTERNAL_REFERENCE, OpenApiDocument
from redactor.report.ambiguous_paths import Overlap, ambiguous_paths_of, findings_of
from redactor.report.coverage import (
    CHANGES_MAX,
    OperationCoverage,
    Tally,
    by_side,
    changes_between,
    coverage_of,
    total,
)
from redactor.report.findings import Finding, IgnoreEntry, Level
from redactor.report.mark_census import Census, annotated_nodes, census_of
from redactor.report.mark_checks import MarkEffects, marks_without_effect, misspelt_keywords
from redactor.report.operation_fields import BODY_SIDES, DocumentFields, Side
from redactor.report.secret_fields import secret_fields

FINDINGS_MAX = 50_000
_MESSAGES = {
    EXTERNAL_REFERENCE: "a reference to another file, which is not read: bundle the document into one file first",
    "path_not_declared": "this path without its query or fragment is not declared with the method, so its requests are recorded without bodies and query",
}


@dataclass(frozen=True)
class Ignored:
    """A finding that the ignore file covers, with the reason that the file gives."""

    finding: Finding
    reason: str


@dataclass(frozen=True)
class LintReport:
    """The results for one document."""

    digest: str
    operations: tuple[OperationCoverage, ...]
    census: Census
    ambiguous_paths: Mapping[Overlap, int]
    """How many pairs of path templates match a common URL."""
    findings: tuple[Finding, ...]
    """The findings that the ignore file does not cover, in the order of the checks."""
    ignored: tuple[Ignored, ...]

    @property
    def sides(self) -> Mapping[Side, Tally]:
        """Coverage by side, over all operations."""
        return by_side(self.operations)

    @property
    def coverage(self) -> Tally:
        """Coverage of all bodies together; `--fail-under` compares it."""
        return total([self.sides[side] for side in BODY_SIDES])

    @property
    def products(self) -> Mapping[str, Sequence[OperationCoverage]]:
        """The operations by product, in alphabetical order."""
        grouped: dict[str, list[OperationCoverage]] = {}
        for each in self.operations:
            grouped.setdefault(each.product, []).append(each)
        return dict(sorted(grouped.items()))

    def highest_level(self) -> Level | None:
        """Return the highest level of the findings; None if there are none."""
        return max((each.level for each in self.findings), default=None)


def lint(
    document: OpenApiDocument,
    config: RedactionConfig,
    baseline: OpenApiDocument | None = None,
    ignore: Sequence[IgnoreEntry] = (),
) -> LintReport:
    """Check a document as `config` applies it.

    With `baseline`, an older version of the document, the report has a finding for every field that one of the two
    records and the other does not. At most FINDINGS_MAX findings are reported.
    """
    document_fields = DocumentFields(document, config)
    operations = coverage_of(document_fields)
    annotated = annotated_nodes(document)
    ambiguous_paths = list(ambiguous_paths_of(document_fields.operations))
    # The checks on secrets and changes come first: FINDINGS_MAX must not cut those.
    found = [
        *secret_fields(operations),
        *_changes(operations, baseline, config),
        *marks_without_effect(document, annotated, MarkEffects(operations)),
        *_bodies_without_marks(operations),
        *findings_of(ambiguous_paths),
        *_unreachable(document_fields, operations),
        *_nothing_matches(document_fields, operations),
        *misspelt_keywords(document),
        *_untrusted(document),
    ]
    # A schema that several operations share would be reported once for each.
    distinct = list(dict.fromkeys(islice(found, FINDINGS_MAX)))
    findings, ignored = _apply_ignore_file(ignore, distinct)
    return LintReport(
        digest=document.digest,
        operations=operations,
        census=census_of(document, annotated),
        ambiguous_paths=Counter(each.overlap for each in ambiguous_paths),
        findings=tuple(findings),
        ignored=tuple(ignored),
    )


def _changes(
    operations: Sequence[OperationCoverage], baseline: OpenApiDocument | None, config: RedactionConfig
) -> Iterator[Finding]:
    if baseline is None:
        return
    old = coverage_of(DocumentFields(baseline, config))
    for change in islice(changes_between(old, operations), CHANGES_MAX):
        code = "newly_exposed" if change.exposed else "newly_hidden"
        yield Finding(code, change.pointer, f"{change.operation}: {change.where}: {change.path}")


def _bodies_without_marks(operations: Iterable[OperationCoverage]) -> Iterator[Finding]:
    for operation in operations:
        # `x-auditable: false` on an operation says that this is intended.
        if operation.operation.denied:
            continue
        for side in (Side.REQUEST, Side.RESPONSE):
            tally = operation.side(side)
            if tally.fields and not tally.kept:
                noun = "field" if tally.fields == 1 else "fields"
                message = f"{operation.name}: nothing of the {side} is recorded ({tally.fields} {noun})"
                yield Finding("nothing_audited", operation.operation.place.pointer, message)


def _unreachable(
    document_fields: DocumentFields, reachable: Iterable[OperationCoverage]
) -> Iterator[Finding]:
    names = {each.name for each in reachable}
    for operation in document_fields.operations:
        name = f"{operation.method} {operation.template}"
        if name not in names:
            yield Finding("route_unreachable", operation.place.pointer, f"no request matches {name}")


def _nothing_matches(
    document_fields: DocumentFields, reachable: Sequence[OperationCoverage]
) -> Iterator[Finding]:
    if not (reachable and document_fields.are_served):
        remedy = "check the document's servers and paths, and hosts and base_paths in the settings"
        yield Finding("nothing_matches", "/paths", f"no request can match any operation: {remedy}")


def _untrusted(document: OpenApiDocument) -> Iterator[Finding]:
    # Compiling the plans has found these; nothing else has to look for them.
    for finding in document.findings:
        message = _MESSAGES.get(finding.code, finding.code.replace("_", " "))
        yield Finding("untrusted", finding.pointer, message)


def _apply_ignore_file(
    entries: Sequence[IgnoreEntry], findings: Sequence[Finding]
) -> tuple[list[Finding], list[Ignored]]:
    """Split the findings into those to report and those that an entry covers; report unused entries as well."""
    reported: list[Finding] = []
    ignored: list[Ignored] = []
    used: set[IgnoreEntry] = set()
    for finding in findings:
        covering = [each for each in entries if each.covers(finding)]
        used.update(covering)
        if covering:
            ignored.append(Ignored(finding, covering[0].reason))
        else:
            reported.append(finding)
    for number, entry in enumerate(entries, 1):
        if entry not in used:
            message = f"entry {number} of the ignore file ({entry.code}, {entry.location}) matches no finding"
            reported.append(Finding("ignore_unused", "", message))
    return reported, ignored
