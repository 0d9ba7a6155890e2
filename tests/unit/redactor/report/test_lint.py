"""The report as a whole: baseline, ignored findings, a real document, and documents that are invalid."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from redactor.config import DocumentConfig, RedactionConfig
from redactor.openapi.document import load_document
from redactor.report.coverage import Tally
from redactor.report.explain import explain_operation
from redactor.report.findings import Finding, IgnoreEntry, Level
from redactor.report.lint import lint
from redactor.report.lint_formats import report_as_json
from redactor.report.operation_fields import DocumentFields, Side
from tests.unit.redactor.documents import a_document, an_operation, body_of, loaded
from tests.unit.redactor.report.reports import CLEAN, messages, report_of, things
from tests.unit.redactor.report.test_coverage import a_wide_document
from tests.unit.redactor.schemas import MARKED, TEXT, Node, a_marked_object, an_object


def test_a_document_without_problems_has_no_findings() -> None:
    report = report_of(things(CLEAN))
    assert report.findings == ()
    assert report.highest_level() is None
    assert report.coverage == Tally(1, 1)


def test_a_baseline_shows_newly_exposed_and_hidden_fields() -> None:
    old = things(an_object(a=MARKED, b=TEXT, c=an_object(d=MARKED)))
    new = things(
        an_object(a=TEXT, b=MARKED, c=an_object(d=MARKED, e=MARKED)),
        parameters=[{"name": "page", "in": "query", "schema": MARKED}],
        responses={"200": body_of(an_object(id=MARKED)), "404": body_of(an_object(id=MARKED))},
    )
    report = report_of(new, old)
    assert messages(report, "newly_exposed") == [
        "POST /things: request application/json: b",
        "POST /things: request application/json: c.e",
        "POST /things: response 200 application/json: id",
        "POST /things: error 404 application/json: id",
        "POST /things: query: page",
    ]
    assert messages(report, "newly_hidden") == ["POST /things: request application/json: a"]
    assert report.highest_level() is Level.WARNING


def test_operations_are_compared_by_method_and_path() -> None:
    def document(path: str, name: str, operation: str) -> Node:
        parameters = [{"name": name, "in": "path", "required": True, "schema": TEXT}]
        operations = {"post": an_operation(CLEAN, operationId=operation, parameters=parameters)}
        return a_document({path: operations})

    old = document("/a/{b_id}", "b_id", "one")
    assert report_of(document("/a/{c_id}", "c_id", "two"), old).findings == ()
    moved = report_of(document("/z/{b_id}", "b_id", "one"), old)
    exposed, hidden = messages(moved, "newly_exposed"), messages(moved, "newly_hidden")
    assert exposed == ["POST /z/{b_id}: request application/json: name", "POST /z/{b_id}: path: variable 1"]
    assert hidden == [each.replace("/z/", "/a/") for each in exposed]


def test_an_identical_baseline_has_no_changes() -> None:
    document = things(an_object(a=MARKED, b=a_marked_object(c=MARKED)))
    report = report_of(document, document)
    assert not messages(report, "newly_exposed")
    assert not messages(report, "newly_hidden")


def test_ignored_findings_keep_their_reason_and_unused_entries_are_reported() -> None:
    used = IgnoreEntry("secret_recorded", "*/properties/password", "a label, not a password")
    unused = IgnoreEntry("secret_recorded", "*/properties/secret", "gone since")
    report = report_of(things(an_object(password=MARKED)), ignore=(used, unused))
    assert [(each.finding.code, each.reason) for each in report.ignored] == [
        ("secret_recorded", "a label, not a password")
    ]
    assert [each.code for each in report.findings] == ["ignore_unused"]
    assert "entry 2" in report.findings[0].message


REAL_FIGURES = {
    "true": 4391,
    "other_values": 12,
    "sensitive": 104,
    "marked_and_denied": 0,
    "on_query_parameters": 38,
    "recursive_schemas": 7,
    "by_place": {"schema": 4384, "request body": 4, "operation": 3},
    "by_shape": {
        "scalars": 3385,
        "enumerated scalars": 732,
        "objects with properties": 105,
        "arrays of scalars": 68,
        "arrays of objects or compositions": 38,
        "free-form objects": 23,
        "wrappers around a reference": 33,
        "not on a schema": 7,
    },
}


def test_the_report_of_a_real_marked_document(real_specs: Path) -> None:
    config = DocumentConfig(real_specs / "cloudflare-auditable.openapi.json", envelope="result")
    report = lint(load_document(config), RedactionConfig(documents=(config,)))
    report_json = report_as_json(report, exit_code=0)
    assert len(report.operations) == 2745
    assert report_json["marks"] == REAL_FIGURES
    # Two pairs meet only if a partly literal segment is taken for a variable: `latest` has no dot.
    assert report_json["template_pairs"] == {"crosswise": 71, "shadowed": 269}
    codes = [each.code for each in report.findings]
    assert codes.count("route_method_gap") == 247
    assert codes.count("inert_place") == 7
    crosswise = {each.message.partition(" ")[2] for each in report.findings if each.code == "route_crosswise"}
    assert len(crosswise) == 47
    assert (codes.count("secret_recorded"), codes.count("untrusted")) == (1, 0)
    assert (
        Finding(
            "secret_recorded",
            "/components/schemas/wafProductApiBundleCustomDetection/properties/password",
            "password is recorded; judging by its name, it may hold a secret",
        )
        in report.findings
    )
    read = [each for each in report.operations if each.reads_bodies]
    assert len(read) == 1381
    with_body = [
        body
        for each in read
        for body, _ in each.bodies
        if body.side is Side.REQUEST and body.media_type == "application/json" and body.root is not None
    ]
    assert len(with_body) == 892


JUNK: list[Any] = [
    None,
    True,
    7,
    "x",
    "",
    [],
    {},
    ["string"],
    {"type": ["object", {}]},
    {"$ref": 3},
    [[]],
    {"a": 1},
]


def corrupted(document: Node, random: Random) -> Node:
    """A copy of the document with three invalid nodes."""
    copy: Node = json.loads(json.dumps(document))
    nodes: list[Any] = [copy]
    for node in nodes:
        nodes.extend(
            each
            for each in (node.values() if isinstance(node, dict) else node)
            if isinstance(each, dict | list)
        )
    for node in random.sample(nodes[1:], 3):
        if isinstance(node, dict) and node:
            node[random.choice([*node, "type", "format", "x-auditable", "enum"])] = random.choice(JUNK)
        elif isinstance(node, list) and node:
            node[random.randrange(len(node))] = random.choice(JUNK)
    return copy


@pytest.mark.parametrize("seed", range(4))
def test_an_invalid_document_is_linted_and_explained(seed: int) -> None:
    random = Random(seed)
    parameters = [{"name": "q", "in": "query", "schema": {"type": "array", "items": MARKED}, "style": "form"}]
    whole = a_wide_document("3.1.0")
    whole["paths"]["/queried"] = {"post": an_operation(CLEAN, parameters=parameters, operationId="queried")}
    for _ in range(3):
        document = loaded(corrupted(whole, random))
        assert report_as_json(lint(document, RedactionConfig()), exit_code=0)
        document_fields = DocumentFields(document, RedactionConfig())
        for operation in document_fields.operations:
            explain_operation(document_fields, operation)
