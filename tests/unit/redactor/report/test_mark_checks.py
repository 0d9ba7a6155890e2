"""Each check on marks and keywords, on the smallest document that triggers it."""

from __future__ import annotations

from typing import Any

import pytest

from redactor.report.coverage import Tally
from redactor.report.findings import CHECKS, Level
from tests.unit.redactor.documents import a_document, an_operation, body_of
from tests.unit.redactor.report.reports import CLEAN, SCHEMA, found_in, messages, report_of, things
from tests.unit.redactor.schemas import DENIED, MARKED, TEXT, Node, a_marked_object, an_object


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
def test_each_check_reports_the_schema(code: str, schema: Node, below: str) -> None:
    report = report_of(things(schema, components={"schemas": {"T": TEXT}}))
    assert found_in(report) == {(code, SCHEMA + below)}
    assert report.highest_level() == CHECKS[code].level


def test_property_names_and_examples_are_not_misspelt_keywords() -> None:
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
        *(
            (
                "inert_place",
                things(CLEAN, parameters=[{"name": "a", "in": place, "schema": schema}]),
                f"/paths/~1things/post/parameters/0/schema{below}",
            )
            for place in ("header", "cookie")
            for schema, below in ((MARKED, ""), ({"type": "array", "items": MARKED}, "/items"))
        ),
        (
            "inert_place",
            things(
                CLEAN,
                parameters=[{"name": "a", "in": "header", "content": {"text/plain": {"schema": MARKED}}}],
            ),
            "/paths/~1things/post/parameters/0/content/text~1plain/schema",
        ),
        (
            "inert_place",
            things(CLEAN, responses={"200": body_of(CLEAN) | {"headers": {"X-A": {"schema": MARKED}}}}),
            "/paths/~1things/post/responses/200/headers/X-A/schema",
        ),
        (
            "inert_place",
            things(
                CLEAN,
                responses={
                    "200": body_of(CLEAN) | {"headers": {"X-A": {"schema": TEXT} | {"x-auditable": True}}}
                },
            ),
            "/paths/~1things/post/responses/200/headers/X-A",
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
def test_each_check_reports_the_node(code: str, document: Node, pointer: str) -> None:
    assert (code, pointer) in found_in(report_of(document))
    others = {"untrusted", "inert_unread", "nothing_matches"}
    assert {found for found, _ in found_in(report_of(document))} <= {code, *others}


@pytest.mark.parametrize(
    ("document", "settings", "found"),
    [
        (a_document({}), {}, True),
        (things(CLEAN, servers=[{"url": "/{d}{"}]), {}, True),
        (things(CLEAN), {"hosts": ("API.example.com", "www.example.com")}, False),
        (things(CLEAN, servers=[{"url": "https://exa mple/"}]), {}, False),
        (things(CLEAN), {}, False),
    ],
)
def test_a_document_of_which_nothing_can_match_is_an_error(
    document: Node, settings: dict[str, Any], found: bool
) -> None:
    report = report_of(document, **settings)
    assert (("nothing_matches", "/paths") in found_in(report)) is found
    assert (report.highest_level() is Level.ERROR) is found


def test_a_path_key_with_a_query_and_no_path_is_explained() -> None:
    document = a_document({"/things?x=1": {"post": an_operation(CLEAN)}})
    [message] = messages(report_of(document), "untrusted")
    assert "without its query or fragment" in message


def test_a_mark_outside_of_the_envelope_is_reported() -> None:
    response = an_object(result=an_object(name=MARKED), success=MARKED)
    document = a_document({"/things": {"post": an_operation(response=response)}})
    report = report_of(document, envelope="result")
    pointer = "/paths/~1things/post/responses/200/content/application~1json/schema/properties/success"
    assert found_in(report) == {("inert_envelope", pointer)}
    assert found_in(report_of(document)) == set()


def test_a_mark_beside_a_reference_has_an_effect_in_3_1() -> None:
    schema = an_object(a={"$ref": "#/components/schemas/T", "x-auditable": True})
    document = things(schema, "3.1.0", components={"schemas": {"T": TEXT}})
    assert report_of(document).findings == ()


def test_an_inherited_container_mark_is_not_reported() -> None:
    report = report_of(things(a_marked_object(name=TEXT)), container_marks="inherit")
    assert report.findings == ()
    assert report.coverage == Tally(1, 1)


def test_a_mark_with_an_effect_in_one_place_is_not_reported_for_another() -> None:
    components = {"schemas": {"T": MARKED}}
    reference = {"$ref": "#/components/schemas/T"}
    schema = an_object(a=reference, b=an_object(c=reference) | {"x-sensitive": True})
    assert report_of(things(schema, components=components)).findings == ()


def test_a_property_named_like_the_keyword_is_not_a_mark() -> None:
    report = report_of(things(an_object(name=MARKED, **{"x-auditable": TEXT})))
    assert report.census.marks == 1
    assert report.findings == ()
