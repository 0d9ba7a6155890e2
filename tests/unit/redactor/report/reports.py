"""Lint reports of small documents, for the tests of the checks."""

from __future__ import annotations

from typing import Any

from redactor.config import RedactionConfig
from redactor.report.lint import LintReport, lint
from tests.unit.redactor.documents import a_document, an_operation, loaded
from tests.unit.redactor.schemas import MARKED, Node, an_object

SCHEMA = "/paths/~1things/post/requestBody/content/application~1json/schema"


CLEAN = an_object(name=MARKED)


def report_of(document: Node, baseline: Node | None = None, ignore: Any = (), **settings: Any) -> LintReport:
    old = None if baseline is None else loaded(baseline, **settings)
    return lint(loaded(document, **settings), RedactionConfig(), old, ignore)


def things(schema: Node, version: Any = "3.0.3", **keywords: Any) -> Node:
    """A document with one operation, whose request has this schema; `keywords` are the operation's."""
    components = keywords.pop("components", {})
    return a_document({"/things": {"post": an_operation(schema, **keywords)}}, version, components=components)


def found_in(report: LintReport) -> set[tuple[str, str]]:
    return {(each.code, each.pointer) for each in report.findings}


def messages(report: LintReport, code: str) -> list[str]:
    return [each.message for each in report.findings if each.code == code]
