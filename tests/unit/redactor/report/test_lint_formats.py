from __future__ import annotations

import json

from redactor.report.coverage import Tally
from redactor.report.findings import IgnoreEntry
from redactor.report.line_numbers import LineColumn
from redactor.report.lint_formats import report_as_json, report_as_sarif, sarif_pointers
from tests.unit.redactor.documents import a_document, an_operation, body_of
from tests.unit.redactor.report.reports import SCHEMA, report_of, things
from tests.unit.redactor.schemas import DENIED, MARKED, TEXT, a_marked_object, an_object


def test_json_has_coverage_by_side_product_and_operation() -> None:
    responses = {"200": body_of(an_object(id=MARKED, note=TEXT)), "400": body_of(an_object(text=TEXT))}
    document = a_document(
        {
            "/accounts/{account_id}/dogs/walks": {
                "post": an_operation(
                    an_object(a=MARKED, b=TEXT, c=TEXT), operationId="walk", responses=responses
                )
            },
            "/accounts/{account_id}/cats": {"post": an_operation(an_object(a=TEXT), operationId="cat")},
        }
    )
    report = report_of(document)
    assert report.coverage == Tally(7, 2)
    report_json = report_as_json(report, exit_code=0)
    assert report_json["coverage"]["sides"]["request"] == {"fields": 4, "kept": 1, "percent": 25.0}
    assert report_json["coverage"]["sides"]["error"] == {"fields": 1, "kept": 0, "percent": 0.0}
    assert {each["product"]: each["sides"]["response"]["kept"] for each in report_json["products"]} == {
        "cats": 0,
        "dogs": 1,
    }
    walk = next(each for each in report_json["operations"] if each["id"] == "walk")
    assert walk["sides"]["response"] == {"fields": 2, "kept": 1, "percent": 50.0}
    assert [(each["side"], each["status"]) for each in walk["bodies"]] == [
        ("request", None),
        ("response", "200"),
        ("error", "400"),
    ]
    assert json.loads(json.dumps(report_json)) == report_json


def test_json_has_marks_by_shape() -> None:
    schema = an_object(
        scalar=MARKED,
        listed=MARKED | {"enum": ["a"]},
        object=a_marked_object(a=TEXT),
        free={"type": "object", "x-auditable": True},
        map={"type": "object", "additionalProperties": MARKED, "x-auditable": True},
        array={"type": "array", "items": TEXT, "x-auditable": True},
        objects={"type": "array", "items": an_object(a=TEXT), "x-auditable": True},
        wrapped={"allOf": [{"$ref": "#/components/schemas/Tree"}], "x-auditable": True},
        untyped={"x-auditable": True},
        denied=DENIED | {"x-auditable": True},
    )
    tree = an_object(below={"$ref": "#/components/schemas/Tree"})
    parameters = [{"name": "q", "in": "query", "schema": MARKED, "x-auditable": False}]
    document = things(schema, parameters=parameters, components={"schemas": {"Tree": tree, "T": TEXT}})
    report_json = report_as_json(report_of(document), exit_code=0)["marks"]
    assert report_json["by_shape"] == {
        "scalars": 4,
        "enumerated scalars": 1,
        "objects with properties": 1,
        "free-form objects": 1,
        "maps": 1,
        "arrays of scalars": 1,
        "arrays of objects or compositions": 1,
        "wrappers around a reference": 1,
        "without one definite type": 1,
    }
    assert (
        report_json["true"],
        report_json["other_values"],
        report_json["sensitive"],
        report_json["marked_and_denied"],
    ) == (12, 1, 1, 1)
    assert (report_json["on_query_parameters"], report_json["recursive_schemas"]) == (1, 1)


def test_sarif_has_rule_level_pointer_and_line() -> None:
    report = report_of(
        things(an_object(password=MARKED, key=MARKED)),
        ignore=(IgnoreEntry("secret_likely", "*", "a label"),),
    )
    pointer = SCHEMA + "/properties/password"
    assert pointer in sarif_pointers(report)
    log = report_as_sarif(report, uri="api.json", version="1", positions={pointer: LineColumn(7, 3)})
    (run,) = log["runs"]
    assert log["version"] == "2.1.0"
    first, suppressed = run["results"]
    rules = run["tool"]["driver"]["rules"]
    for each in run["results"]:
        assert rules[each["ruleIndex"]]["id"] == each["ruleId"]
        assert each["level"] == rules[each["ruleIndex"]]["defaultConfiguration"]["level"]
    assert (first["ruleId"], first["level"]) == ("secret_recorded", "error")
    place = first["locations"][0]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == "api.json"
    assert place["physicalLocation"]["region"] == {"startLine": 7, "startColumn": 3}
    assert place["logicalLocations"][0]["fullyQualifiedName"] == pointer
    assert "suppressions" not in first
    assert suppressed["suppressions"] == [{"kind": "external", "justification": "a label"}]
    assert len({each["partialFingerprints"]["auditap/v1"] for each in run["results"]}) == 2
