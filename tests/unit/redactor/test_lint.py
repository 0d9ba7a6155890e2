"""Each check of lint, on the smallest document that shows it, and on one that does not."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from redactor.config import DocumentConfig, RedactionConfig
from redactor.coverage import Tally
from redactor.document import load_document
from redactor.explain import explain_operation
from redactor.line_numbers import TextPosition, positions_of
from redactor.lint import LintReport, lint
from redactor.lint_checks import CHECKS, Finding, Level
from redactor.lint_ignore import IgnoreEntry, load_ignore_file
from redactor.lint_report import report_as_json, report_as_sarif, sarif_pointers
from redactor.plan import Scalar
from redactor.plan_parts import PlanParts, keeps_value, shows_presence
from redactor.secret_names import looks_secret
from redactor.surface import Side, Surface
from schemas.errors import StartupError
from tests.unit.redactor.pairs import (
    DENIED,
    MARKED,
    TEXT,
    Node,
    a_document,
    a_marked_object,
    an_object,
    an_operation,
    body_of,
    loaded,
)
from tests.unit.redactor.test_lint_coverage import a_wide_document

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


def test_nothing_is_found_in_a_clean_document() -> None:
    report = report_of(things(CLEAN))
    assert report.findings == ()
    assert report.worst() is None
    assert report.coverage == Tally(1, 1)


@pytest.mark.parametrize(
    ("code", "schema", "below"),
    [
        ("secret_recorded", an_object(password=MARKED), "/properties/password"),
        ("secret_recorded", an_object(clientSecret=an_object(value=MARKED)), "/properties/clientSecret/properties/value"),
        ("secret_recorded", an_object(name=MARKED | {"format": "jwt"}), "/properties/name"),
        ("secret_likely", an_object(session_token=MARKED), "/properties/session_token"),
        ("secret_likely", an_object(name=MARKED | {"writeOnly": True}), "/properties/name"),
        ("secret_likely", an_object(tokens={"type": "array", "items": MARKED}), "/properties/tokens/items"),
        ("inert_container", a_marked_object(name=MARKED), ""),
        ("inert_empty", an_object(name=MARKED, a=a_marked_object(b=TEXT)), "/properties/a"),
        (
            "inert_empty",
            an_object(name=MARKED, a={"type": "array", "items": an_object(b=TEXT), "x-auditable": True}),
            "/properties/a",
        ),
        ("inert_reference", an_object(name=MARKED, a={"$ref": "#/components/schemas/T", "x-auditable": True}), "/properties/a"),
        ("inert_condition", an_object(name=MARKED | {"not": {"x-auditable": True}}), "/properties/name/not"),
        ("inert_condition", CLEAN | {"then": an_object(name=MARKED)}, "/then/properties/name"),
        ("inert_denied", an_object(name=MARKED, a=MARKED | {"x-sensitive": True}), "/properties/a"),
        ("inert_denied", an_object(name=MARKED, a=an_object(b=MARKED) | {"x-sensitive": True}), "/properties/a/properties/b"),
        ("inert_denied", an_object(name=MARKED, a=MARKED | {"format": "password"}), "/properties/a"),
        ("inert_type", an_object(name=MARKED, a={"x-auditable": True}), "/properties/a"),
        ("inert_type", an_object(name=MARKED, a={"type": "array", "x-auditable": True}), "/properties/a"),
        ("inert_type", an_object(name=MARKED, a={"type": "object", "additionalProperties": MARKED}), "/properties/a/additionalProperties"),
        ("inert_composition", an_object(name=MARKED, a={"oneOf": [an_object(b=MARKED), an_object(b=TEXT)]}), "/properties/a/oneOf/0/properties/b"),
        ("value_denies", an_object(name=MARKED, a={"type": "string", "x-auditable": "true"}), "/properties/a"),
        ("mark_misspelt", an_object(name=MARKED, a=TEXT | {"x-auditible": True}), "/properties/a/x-auditible"),
        ("mark_misspelt", an_object(name=MARKED, a=TEXT | {"x_auditable": True}), "/properties/a/x_auditable"),
        ("mark_misspelt", an_object(name=MARKED, a=TEXT | {"X-Auditable": "true"}), "/properties/a/X-Auditable"),
        ("mark_misspelt", an_object(name=MARKED, a=TEXT | {"auditable": True}), "/properties/a/auditable"),
        ("denial_misspelt", an_object(name=MARKED | {"x-sensitve": True}), "/properties/name/x-sensitve"),
        ("denial_misspelt", an_object(name=MARKED | {"x_sensitive": True}), "/properties/name/x_sensitive"),
        ("untrusted", an_object(name=MARKED, a={"$ref": "#/components/schemas/Missing"}), "/properties/a"),
    ],
)  # fmt: skip
def test_a_check_finds_its_schema(code: str, schema: Node, below: str) -> None:
    report = report_of(things(schema, components={"schemas": {"T": TEXT}}))
    assert found_in(report) == {(code, SCHEMA + below)}
    assert report.worst() == CHECKS[code].level


def test_names_that_resemble_a_mark_are_none() -> None:
    properties = {"auditable": MARKED, "x_auditable": MARKED, "X-Sensitive": MARKED}
    schema = an_object(**properties) | {
        "x-audit-type": "t",
        "x-auditor-s": 1,
        "example": {"x-auditible": True},
    }
    assert found_in(report_of(things(schema))) == set()


@pytest.mark.parametrize(
    ("code", "document", "pointer"),
    [
        (
            "inert_place",
            things(CLEAN, requestBody=body_of(CLEAN) | {"x-auditable": True}),
            "/paths/~1things/post/requestBody",
        ),
        ("inert_place", things(CLEAN, **{"x-auditable": True}), "/paths/~1things/post"),
        (
            "inert_place",
            things(CLEAN, parameters=[{"name": "a", "in": "header", "schema": TEXT, "x-auditable": True}]),
            "/paths/~1things/post/parameters/0",
        ),
        ("inert_place", things(CLEAN, tags=[{"x-auditable": True}]), "/paths/~1things/post/tags/0"),
        (
            "inert_unread",
            a_document({"/things": {"get": an_operation(response=CLEAN)}}),
            "/paths/~1things/get/responses/200/content/application~1json/schema/properties/name",
        ),
        (
            "inert_unread",
            things(CLEAN, components={"schemas": {"Unused": MARKED}}),
            "/components/schemas/Unused",
        ),
        (
            "inert_denied",
            things(CLEAN, components={"schemas": {"Unused": DENIED | {"x-auditable": True}}}),
            "/components/schemas/Unused",
        ),
        (
            "inert_enum",
            things(CLEAN, responses={"400": body_of(an_object(a=an_object(b=MARKED) | {"enum": [{}]}))}),
            "/paths/~1things/post/responses/400/content/application~1json/schema/properties/a/properties/b",
        ),
        ("nothing_audited", things(an_object(a=TEXT)), "/paths/~1things/post"),
        ("nothing_audited", things(CLEAN, responses={"200": body_of(TEXT)}), "/paths/~1things/post"),
        (
            "secret_likely",
            things(CLEAN, parameters=[{"name": "auth_token", "in": "query", "schema": MARKED}]),
            "/paths/~1things/post/parameters/0/schema",
        ),
        (
            "route_unreachable",
            things(CLEAN, servers=[{"url": "/{d}{"}]),
            "/paths/~1things/post",
        ),
    ],
)
def test_a_check_finds_its_place(code: str, document: Node, pointer: str) -> None:
    assert (code, pointer) in found_in(report_of(document))
    assert {found for found, _ in found_in(report_of(document))} <= {code, "untrusted", "inert_unread"}


def test_a_mark_outside_of_the_envelope_is_found() -> None:
    response = an_object(result=an_object(name=MARKED), success=MARKED)
    document = a_document({"/things": {"post": an_operation(response=response)}})
    report = report_of(document, envelope="result")
    pointer = "/paths/~1things/post/responses/200/content/application~1json/schema/properties/success"
    assert found_in(report) == {("inert_envelope", pointer)}
    assert found_in(report_of(document)) == set()


def test_a_mark_beside_a_reference_counts_in_3_1() -> None:
    schema = an_object(a={"$ref": "#/components/schemas/T", "x-auditable": True})
    document = things(schema, "3.1.0", components={"schemas": {"T": TEXT}})
    assert report_of(document).findings == ()


def test_a_container_mark_is_no_finding_where_it_is_inherited() -> None:
    report = report_of(things(a_marked_object(name=TEXT)), container_marks="inherit")
    assert report.findings == ()
    assert report.coverage == Tally(1, 1)


def test_a_mark_that_counts_in_one_place_is_not_reported_for_another() -> None:
    components = {"schemas": {"T": MARKED}}
    reference = {"$ref": "#/components/schemas/T"}
    schema = an_object(a=reference, b=an_object(c=reference) | {"x-sensitive": True})
    assert report_of(things(schema, components=components)).findings == ()


@pytest.mark.parametrize(
    ("code", "paths"),
    [
        ("route_twins", {"/a/{b}": "post", "/a/{c}": "post"}),
        ("route_crosswise", {"/a/{b}/c": "post", "/a/d/{e}": "post"}),
        ("route_method_gap", {"/a/{b}": "delete", "/a/c": "post"}),
        (None, {"/a/{b}": "post", "/a/c": "post"}),
        (None, {"/a/{b}/c": "post", "/a/d/{e}": "put"}),
        (None, {"/a/{b}": "post", "/a/{b}/c": "post"}),
        (None, {"/a/{b}.png": "post", "/a/c.jpg": "post"}),
        ("route_method_gap", {"/a/{b}.png": "post", "/a/c.png": "put"}),
        ("route_twins", {"/a/{b}.{c}": "post", "/a/{b}.png": "post"}),
    ],
)
def test_templates_that_collide_are_found(code: str | None, paths: dict[str, str]) -> None:
    document = a_document(
        {path: {method: an_operation(CLEAN, operationId=path)} for path, method in paths.items()}
    )
    assert {each.code for each in report_of(document).findings} == ({code} if code else set())


@pytest.mark.parametrize(
    ("name", "looks"),
    [
        ("password", "sure"),
        ("db_password", "sure"),
        ("clientSecret", "sure"),
        ("APIKey", "sure"),
        ("private_key", "sure"),
        ("Authorization", "sure"),
        ("aws_credentials", "sure"),
        ("token", "likely"),
        ("key", "likely"),
        ("public_key", None),
        ("token_id", None),
        ("key_name", None),
        ("password_updated_at", None),
        ("secret_version", None),
        ("keyboard", None),
        ("tokenizer", None),
        ("name", None),
        ("", None),
    ],
)
def test_names_that_look_secret(name: str, looks: str | None) -> None:
    assert looks_secret(name) == looks


@pytest.mark.parametrize("schema", [{"type": "boolean"}, {"type": "integer"}, TEXT | {"enum": ["a"]}])
def test_what_cannot_hold_a_secret_is_not_called_one(schema: Node) -> None:
    assert report_of(things(an_object(password=schema | {"x-auditable": True}))).findings == ()


def test_a_secret_that_is_not_recorded_is_no_finding() -> None:
    assert report_of(things(an_object(name=MARKED, password=TEXT, token=DENIED))).findings == ()


def messages(report: LintReport, code: str) -> list[str]:
    return [each.message for each in report.findings if each.code == code]


def test_a_baseline_tells_what_a_change_exposes_and_hides() -> None:
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
    assert report.worst() is Level.WARNING


def test_a_baseline_knows_an_operation_by_method_and_path() -> None:
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


def test_the_same_document_is_no_change() -> None:
    document = things(an_object(a=MARKED, b=a_marked_object(c=MARKED)))
    report = report_of(document, document)
    assert not messages(report, "newly_exposed")
    assert not messages(report, "newly_hidden")


def test_ignored_findings_are_left_out_with_their_reason_and_unused_entries_reported() -> None:
    used = IgnoreEntry("secret_recorded", "*/properties/password", "a label, not a password")
    unused = IgnoreEntry("secret_recorded", "*/properties/secret", "gone since")
    report = report_of(things(an_object(password=MARKED)), ignore=(used, unused))
    assert [(each.finding.code, each.reason) for each in report.ignored] == [
        ("secret_recorded", "a label, not a password")
    ]
    assert [each.code for each in report.findings] == ["ignore_unused"]
    assert "entry 2" in report.findings[0].message


YAML_ENTRIES = """\
ignore:
  - code: secret_likely
    location: "*/properties/key"
    reason: The key of a label.
"""
TOML_ENTRIES = """\
[[ignore]]
code = "secret_likely"
location = "*/properties/key"
reason = "The key of a label."
"""


@pytest.mark.parametrize(("name", "text"), [("a.yaml", YAML_ENTRIES), ("a.toml", TOML_ENTRIES)])
def test_an_ignore_file_is_yaml_or_toml(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    expected = IgnoreEntry("secret_likely", "*/properties/key", "The key of a label.")
    assert load_ignore_file(tmp_path / name) == (expected,)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (YAML_ENTRIES.replace("    reason: The key of a label.\n", ""), "Entry 1"),
        (YAML_ENTRIES.replace("The key of a label.", '" "'), "Entry 1"),
        (YAML_ENTRIES.replace("secret_likely", "no_such_code"), "code that does not exist"),
        (YAML_ENTRIES.replace("location", "place"), "Entry 1"),
        ("- code: a", "list named ignore"),
        ("ignore: 3", "list named ignore"),
        ("{", "cannot be read"),
    ],
)
def test_an_ignore_file_that_is_not_complete_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "ignore.yaml").write_text(text)
    with pytest.raises(StartupError, match=sentence):
        load_ignore_file(tmp_path / "ignore.yaml")


def test_coverage_is_told_in_total_by_side_product_and_operation() -> None:
    answers = {"200": body_of(an_object(id=MARKED, note=TEXT)), "400": body_of(an_object(text=TEXT))}
    document = a_document(
        {
            "/accounts/{account_id}/dogs/walks": {
                "post": an_operation(
                    an_object(a=MARKED, b=TEXT, c=TEXT), operationId="walk", responses=answers
                )
            },
            "/accounts/{account_id}/cats": {"post": an_operation(an_object(a=TEXT), operationId="cat")},
        }
    )
    report = report_of(document)
    assert report.coverage == Tally(7, 2)
    told = report_as_json(report, exit_code=0)
    assert told["coverage"]["sides"]["request"] == {"leaves": 4, "kept": 1, "percent": 25.0}
    assert told["coverage"]["sides"]["error"] == {"leaves": 1, "kept": 0, "percent": 0.0}
    assert {each["product"]: each["sides"]["response"]["kept"] for each in told["products"]} == {
        "cats": 0,
        "dogs": 1,
    }
    walk = next(each for each in told["operations"] if each["id"] == "walk")
    assert walk["sides"]["response"] == {"leaves": 2, "kept": 1, "percent": 50.0}
    assert [(each["side"], each["status"]) for each in walk["bodies"]] == [
        ("request", None),
        ("response", "200"),
        ("error", "400"),
    ]
    assert json.loads(json.dumps(told)) == told


def test_marks_are_counted_by_what_they_stand_on() -> None:
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
    told = report_as_json(report_of(document), exit_code=0)["marks"]
    assert told["by_shape"] == {
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
    assert (told["true"], told["other_values"], told["sensitive"], told["marked_and_denied"]) == (12, 1, 1, 1)
    assert (told["on_query_parameters"], told["recursive_schemas"]) == (1, 1)


def test_a_property_named_like_the_keyword_is_no_mark() -> None:
    report = report_of(things(an_object(name=MARKED, **{"x-auditable": TEXT})))
    assert report.census.marks == 1
    assert report.findings == ()


def test_sarif_names_rule_level_place_and_line() -> None:
    report = report_of(
        things(an_object(password=MARKED, key=MARKED)),
        ignore=(IgnoreEntry("secret_likely", "*", "a label"),),
    )
    pointer = SCHEMA + "/properties/password"
    assert pointer in sarif_pointers(report)
    log = report_as_sarif(report, uri="api.json", version="1", positions={pointer: TextPosition(7, 3)})
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


JSON_TEXT = b'{\n "a": {"b/c": [1,\n  {"d": "{\\"x\\": [1,2]}"}],\n "e": null}, "f": true}\n'
YAML_TEXT = b"a:\n  b/c:\n    - 1\n    - d: x\n  e: null\nf: &f\n  g: *f\n"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.json", JSON_TEXT, {"/a": (2, 2), "/a/b~1c/1": (3, 3), "/a/b~1c/1/d": (3, 4), "/a/e": (4, 2), "/f": (4, 14)}),
        ("a.yaml", YAML_TEXT, {"/a": (1, 1), "/a/b~1c/1": (4, 7), "/a/b~1c/1/d": (4, 7), "/a/e": (5, 3), "/f/g/g": (7, 3)}),
    ],
)  # fmt: skip
def test_pointers_are_found_in_the_text(name: str, text: bytes, expected: dict[str, tuple[int, int]]) -> None:
    assert positions_of(Path(name), text, {*expected, "/missing", ""}) == expected | {"": (1, 1)}


def test_every_pointer_of_a_document_is_found_in_its_text() -> None:
    document = things(an_object(**{"a~b/c": MARKED, "d": a_marked_object(e=MARKED)}))
    text = json.dumps(document, indent=2).encode()
    pointers = {SCHEMA + "/properties/a~0b~1c", SCHEMA + "/properties/d/properties/e"}
    lines = text.decode().splitlines()
    for pointer, (line, column) in positions_of(Path("d.json"), text, pointers).items():
        key = json.dumps(pointer.rpartition("/")[2].replace("~1", "/").replace("~0", "~"))
        assert lines[line - 1][column - 1 :].startswith(key)


def test_a_scalar_of_which_only_null_is_left_is_not_called_kept() -> None:
    assert not keeps_value(Scalar(frozenset({str}), frozenset()))
    assert keeps_value(Scalar(frozenset({str}), frozenset({'"a'})))


class AskedPlan:
    """A plan of a kind that the parts do not know."""

    def keep(self, value: Any) -> Any:
        if type(value) is list:
            return [self.keep(each) for each in value]
        kept = value.get("kept", value) if type(value) is dict else value
        return {"kept": kept} if type(value) is dict and "kept" in value else value


def test_a_plan_of_an_unknown_kind_is_asked() -> None:
    parts = PlanParts()
    plan = AskedPlan()
    assert keeps_value(parts.of_property(plan, "kept"))
    assert parts.of_property(plan, "kept") is parts.of_property(plan, "kept")
    assert keeps_value(parts.of_element(plan, None))
    assert keeps_value(parts.of_element(plan, 2))
    assert shows_presence(plan)


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


def test_the_figures_of_the_real_marked_document(real_specs: Path) -> None:
    config = DocumentConfig(real_specs / "cloudflare-auditable.openapi.json", envelope="result")
    report = lint(load_document(config), RedactionConfig(documents=(config,)))
    told = report_as_json(report, exit_code=0)
    assert len(report.operations) == 2745
    assert told["marks"] == REAL_FIGURES
    # Two pairs meet only if a partly literal segment is taken for a variable: `latest` has no dot.
    assert told["template_pairs"] == {"crosswise": 71, "shadowed": 269}
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
            "password is recorded; by its name it may be secret",
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


def spoiled(document: Node, random: Random) -> Node:
    """The same document with a few nodes that are not what they should be."""
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
def test_a_document_that_is_not_what_it_should_be_is_linted_and_explained_all_the_same(seed: int) -> None:
    random = Random(seed)
    parameters = [{"name": "q", "in": "query", "schema": {"type": "array", "items": MARKED}, "style": "form"}]
    whole = a_wide_document("3.1.0")
    whole["paths"]["/queried"] = {"post": an_operation(CLEAN, parameters=parameters, operationId="queried")}
    for _ in range(3):
        document = loaded(spoiled(whole, random))
        assert report_as_json(lint(document, RedactionConfig()), exit_code=0)
        surface = Surface(document, RedactionConfig())
        for operation in surface.operations:
            explain_operation(surface, operation)
