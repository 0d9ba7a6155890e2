"""The lint report as JSON, and as SARIF 2.1.0 for tools that show findings beside the document.

SARIF is written as plain dictionaries: the log has one run and one kind of result, so a library of classes for the
whole specification would only add a dependency (sarif-om is unmaintained, sarif-pydantic is young).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from redactor.report.coverage import OperationCoverage, Tally, by_side
from redactor.report.findings import CHECKS, Finding
from redactor.report.line_numbers import LineColumn
from redactor.report.lint import LintReport
from redactor.report.operation_fields import Side

SARIF_RESULTS_MAX = 5_000
"""Code scanning services show at most so many results of one run. Findings of the highest level come first."""
_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_TEXT_START = LineColumn(1, 1)

Json = dict[str, Any]


def report_as_json(report: LintReport, *, exit_code: int) -> Json:
    """Return the whole report: coverage in total, by product and by operation, the census of marks, and the findings."""
    return {
        "version": 1,
        "document": report.digest,
        "exit_code": exit_code,
        "coverage": _tally(report.coverage) | {"sides": _sides(report.sides)},
        "products": [
            {"product": name, "operations": len(operations), "sides": _sides(by_side(operations))}
            for name, operations in report.products.items()
        ],
        "operations": [_operation(each) for each in report.operations],
        "marks": _census(report),
        "template_pairs": {
            relation.value: count for relation, count in sorted(report.ambiguous_paths.items())
        },
        "findings": [_finding(each) for each in report.findings],
        "ignored": [_finding(each.finding) | {"reason": each.reason} for each in report.ignored],
    }


def _tally(tally: Tally) -> Json:
    percent = None if tally.percent is None else round(tally.percent, 2)
    return {"fields": tally.fields, "kept": tally.kept, "percent": percent}


def _sides(sides: Mapping[Side, Tally]) -> Json:
    return {side.value: _tally(tally) for side, tally in sides.items()}


def _operation(operation: OperationCoverage) -> Json:
    return {
        "id": operation.operation.id,
        "method": operation.operation.method,
        "path": operation.operation.template,
        "product": operation.product,
        "bodies_are_read": operation.reads_bodies,
        "sides": {side.value: _tally(operation.side(side)) for side in Side},
        "bodies": [
            {"side": body.side.value, "status": body.status, "media_type": body.media_type}
            | _tally(tally)
            | ({} if body.closed is None else {"rule": body.closed.rule, "reason": body.closed.reason})
            for body, tally in operation.bodies
        ],
    }


def _census(report: LintReport) -> Json:
    census = report.census
    return {
        "true": census.marks,
        "by_shape": {shape.value: count for shape, count in census.by_shape.items()},
        "by_place": {kind.value: count for kind, count in census.by_kind.items()},
        "on_query_parameters": census.on_query_parameters,
        "other_values": census.denials,
        "sensitive": census.sensitive,
        "marked_and_denied": census.marked_and_denied,
        "recursive_schemas": census.recursive,
    }


def _finding(finding: Finding) -> Json:
    return {
        "code": finding.code,
        "level": finding.level.text,
        "pointer": finding.pointer,
        "message": finding.message,
    }


def report_as_sarif(
    report: LintReport, *, uri: str, version: str, positions: Mapping[str, LineColumn]
) -> Json:
    """Return a SARIF 2.1.0 log with one run.

    `uri`: the document's, relative to its repository. `positions`: line and column of each finding's pointer; a
    finding without one is shown at the start of the document. Ignored findings are included as suppressed results with their
    reasons. At most SARIF_RESULTS_MAX results are written.
    """
    first = sorted(report.findings, key=lambda each: -each.level)[:SARIF_RESULTS_MAX]
    results = [_result(each, uri, positions) for each in first]
    for ignored in report.ignored[: SARIF_RESULTS_MAX - len(first)]:
        # `external`: suppressed by a file, not by a comment in the source.
        suppression = {"kind": "external", "justification": ignored.reason}
        results.append(_result(ignored.finding, uri, positions) | {"suppressions": [suppression]})
    driver = {
        "name": "auditap lint",
        "version": version,
        "informationUri": "https://github.com/auditap/auditap",
        "rules": [
            {
                "id": code,
                "shortDescription": {"text": check.meaning},
                "defaultConfiguration": {"level": check.level.text},
            }
            for code, check in CHECKS.items()
        ],
    }
    # Columns are counted in code points, as Python and PyYAML count.
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return {"$schema": _SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}


def sarif_pointers(report: LintReport) -> set[str]:
    """Return the pointers for which `report_as_sarif` needs positions."""
    return {each.pointer for each in (*report.findings, *(ignored.finding for ignored in report.ignored))}


_RULE_INDEX = {code: index for index, code in enumerate(CHECKS)}


def _result(finding: Finding, uri: str, positions: Mapping[str, LineColumn]) -> Json:
    at = positions.get(finding.pointer, _TEXT_START)
    identity = f"{finding.code}\0{finding.pointer}\0{finding.message}".encode()
    return {
        "ruleId": finding.code,
        "ruleIndex": _RULE_INDEX[finding.code],
        "level": finding.level.text,
        "message": {"text": finding.message},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": uri},
                    "region": {"startLine": at.line, "startColumn": at.column},
                },
                "logicalLocations": [{"fullyQualifiedName": finding.pointer, "kind": "member"}],
            }
        ],
        # Independent of line numbers, so that a finding that moves is not reported as a new one.
        "partialFingerprints": {"auditap/v1": hashlib.sha256(identity).hexdigest()[:32]},
    }
