from __future__ import annotations

from typing import Any

import pytest

from redactor.config import Limits
from tests.unit.redactor.documents import a_document, an_operation
from tests.unit.redactor.pairs import a_pair, a_redactor, event_of
from tests.unit.redactor.schemas import DENIED, MARKED, TEXT, Node, an_object


def uri(
    template: str, url: str, parameters: list[Node] | None = None, status: int = 200, **settings: Any
) -> str:
    document = a_document({template: {"get": an_operation(parameters=parameters or [])}}, "3.1.0")
    event = event_of(a_redactor(document, **settings), a_pair(method="GET", url=url, status=status))
    assert event.receipt.operation == "op"
    assert event.raw.uri is not None
    return event.raw.uri


def in_path(name: str, schema: Node, **keywords: Any) -> Node:
    return {"name": name, "in": "path", "required": True, "schema": schema} | keywords


def in_query(name: str, schema: Any, **keywords: Any) -> Node:
    return {"name": name, "in": "query", "schema": schema} | keywords


class TestPath:
    @pytest.mark.parametrize("name", ["id", "policy_id", "accountId", "UUID", "identifier", "etag"])
    def test_variables_that_are_named_like_ids_stand_as_their_value(self, name: str) -> None:
        assert uri(f"/things/{{{name}}}", "/things/v1") == "/things/v1"

    @pytest.mark.parametrize("name", ["key_name", "ids", "id_name", "email"])
    def test_others_stand_as_their_template(self, name: str) -> None:
        assert uri(f"/things/{{{name}}}", "/things/s3cret") == f"/things/{{{name}}}"

    def test_marked_and_configured_ones_stand_as_their_value(self) -> None:
        assert uri("/things/{name}", "/things/v", [in_path("name", MARKED)]) == "/things/v"
        assert (
            uri("/things/{name}", "/things/v", [in_path("name", TEXT, **{"x-auditable": True})])
            == "/things/v"
        )
        assert uri("/things/{name}", "/things/v", path_parameters_kept=frozenset({"name"})) == "/things/v"

    @pytest.mark.parametrize(
        "parameter",
        [
            in_path("id", DENIED),
            in_path("id", TEXT, **{"x-sensitive": True}),
            in_path("id", {"format": "password"}),
        ],
    )
    def test_a_denial_wins_over_name_and_configuration(self, parameter: Node) -> None:
        found = uri("/things/{id}", "/things/s", [parameter], path_parameters_kept=frozenset({"id"}))
        assert found == "/things/{id}"

    def test_a_marked_value_must_fit_its_type(self) -> None:
        number = in_path("n", {"type": "integer", "x-auditable": True})
        assert uri("/things/{n}", "/things/12", [number]) == "/things/12"
        assert uri("/things/{n}", "/things/s", [number]) == "/things/{n}"
        choice = in_path("n", MARKED | {"enum": ["a"]})
        assert uri("/things/{n}", "/things/s", [choice], status=404) == "/things/{n}"

    @pytest.mark.parametrize(
        ("schema", "value", "status", "kept"),
        [
            ({"type": "integer"}, "12", 200, True),
            ({"type": "integer"}, "alice@example.com", 200, False),
            ({"type": "integer"}, "1.5", 200, False),
            ({"type": "integer"}, "9" * 129, 200, False),
            ({"type": "number"}, "1.5", 200, True),
            ({"type": "boolean"}, "yes", 200, False),
            ({"type": "string", "format": "uuid"}, "alice", 200, True),
            ({"type": "array", "items": {"type": "integer"}}, "alice", 200, False),
            ({"type": "object"}, "alice", 200, False),
            ({"type": ["integer", "null"]}, "alice", 200, False),
            ({"type": ["integer", "string"]}, "alice", 200, True),
            ({"oneOf": [{"type": "integer"}, {"type": "boolean"}]}, "alice", 200, False),
            ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, "alice", 200, True),
            ({"allOf": [{"type": "integer"}, {"minimum": 1}]}, "alice", 200, False),
            # From 400 on, `enum` and `const` decide as well: nobody has accepted the value (rule 6).
            ({"enum": ["a"]}, "alice", 200, True),
            ({"enum": ["a"]}, "alice", 404, False),
            ({"enum": ["a", "alice"]}, "alice", 404, True),
            ({"type": "string", "const": "a"}, "alice", 404, False),
            ({"allOf": [TEXT, {"enum": ["a"]}]}, "alice", 404, False),
            ({"oneOf": [TEXT, {"type": "string", "enum": ["a"]}]}, "alice", 404, True),
            ({"type": "integer", "enum": [7]}, "8", 404, False),
            ({"type": "integer", "enum": [7]}, "7", 404, True),
            ({}, "alice", 404, True),
        ],
    )
    def test_a_value_kept_by_name_must_fit_its_type(
        self, schema: Node, value: str, status: int, kept: bool
    ) -> None:
        for name, settings in (("userId", {}), ("user", {"path_parameters_kept": frozenset({"user"})})):
            template, parameters = f"/u/{{{name}}}", [in_path(name, schema)]
            found = uri(template, f"/u/{value}", parameters, status, **settings)
            assert found == (f"/u/{value}" if kept else template)
            # A declaration holds for its name in any case, as a denial does.
            found = uri(template, f"/u/{value}", [in_path(name.upper(), schema)], status, **settings)
            assert found == (f"/u/{value}" if kept else template)

    def test_the_type_is_uncertain_where_declarations_differ_or_describe_a_content(self) -> None:
        number, text = in_path("id", {"type": "integer"}), in_path("id", TEXT)
        for parameters in ([number, text], [text, number]):
            assert uri("/u/{id}", "/u/7", parameters) == "/u/{id}"
        assert uri("/u/{id}", "/u/7", [number, number | {"description": "d"}]) == "/u/7"
        content = {"name": "id", "in": "path", "content": {"application/json": {"schema": TEXT}}}
        assert uri("/u/{id}", "/u/7", [content]) == "/u/{id}"

    def test_what_does_not_fit_its_type_names_no_resource_or_account(self) -> None:
        item = {
            "parameters": [in_path("account_id", {"type": "integer"}), in_path("id", {"type": "integer"})],
            "delete": an_operation(),
        }
        redactor = a_redactor(a_document({"/accounts/{account_id}/u/{id}": item}))
        for url, account, resource in (
            ("/accounts/7/u/8", "7", "8"),
            ("/accounts/alice/u/bob", None, None),
            ("/accounts/alice//u/bob", None, None),
        ):
            event = event_of(redactor, a_pair(method="DELETE", url=url))
            assert (event.account.id, event.resource.id) == (account, resource)
            assert "alice" not in str(event.raw.uri)

    @pytest.mark.parametrize(
        ("template", "url", "schemas", "kept"),
        [
            ("/report.{format}", "/report.json", {"format": MARKED}, True),
            ("/report.{format}", "/report.json", {"format": TEXT}, False),
            ("/report.{format}", "/report.json", {"format": {"type": "integer", "x-auditable": True}}, False),
            ("/r/{id}.{format}", "/r/1.json", {"format": MARKED}, True),
            ("/r/{id}.{format}", "/r/1.json", {"id": DENIED, "format": MARKED}, False),
            ("/r/{id}.{format}", "/r/a.b.json", {"format": MARKED}, True),
            ("/r/{id}.{format}", "/r/1.json", {"id": {"type": "integer"}, "format": MARKED}, True),
            ("/r/{id}.{format}", "/r/a.json", {"id": {"type": "integer"}, "format": MARKED}, False),
            # It is uncertain where the number ends.
            ("/r/{id}.{format}", "/r/1.2.json", {"id": {"type": "integer"}, "format": MARKED}, False),
            ("/r/{id}.{format}", "/r/1.json", {"id": {"type": "integer"}, "format": TEXT}, False),
        ],
    )
    def test_a_mark_on_a_part_of_a_segment_counts(
        self, template: str, url: str, schemas: dict[str, Node], kept: bool
    ) -> None:
        parameters = [in_path(name, schema) for name, schema in schemas.items()]
        assert uri(template, url, parameters) == (url if kept else template)

    def test_values_are_encoded_again(self) -> None:
        assert uri("/things/{id}", "/th%69ngs/a%20b%7B%3f%C3%A9") == "/things/a%20b%7B%3F%C3%A9"

    def test_partly_literal_segments_need_all_their_variables(self) -> None:
        assert uri("/shots/{scan_id}.png", "/shots/7.png") == "/shots/7.png"
        assert uri("/shots/{scan_id}.{kind}", "/shots/7.png") == "/shots/{scan_id}.{kind}"

    def test_userinfo_host_and_fragment_are_never_recorded(self) -> None:
        url = "https://user:s3cret@example.com:8443/things/7#s3cret?q=s"
        assert uri("/things/{id}", url) == "/things/7"

    def test_a_path_beyond_the_limit_stands_as_its_template(self) -> None:
        assert uri("/things/{id}", "/things/" + "x" * 20_000) == "/things/{id}"


class TestQuery:
    @pytest.mark.parametrize(
        ("parameter", "query", "expected"),
        [
            (in_query("q", MARKED), "q=a&other=s", "?q=a"),
            (in_query("q", TEXT), "q=s", ""),
            (in_query("q", TEXT, **{"x-auditable": True}), "q=a", "?q=a"),
            (in_query("q", DENIED, **{"x-auditable": True}), "q=s", ""),
            (in_query("q", MARKED, **{"x-sensitive": True}), "q=s", ""),
            (in_query("q", MARKED), "%71=a+b%26c", "?q=a%20b%26c"),
            (in_query("q", MARKED), "q=a&q=b", ""),
            (in_query("q", MARKED), "q=a&%71=b", ""),
            (in_query("q", MARKED), "q=a;x=s", ""),
            (in_query("q", MARKED), "q=%FF", ""),
            (in_query("q", MARKED), "q=%zz", ""),
            (in_query("q", MARKED), "q[]=s", ""),
            (in_query("q", MARKED), "Q=s", ""),
            (in_query("q", MARKED), "q", "?q="),
            (in_query("q", {"type": "integer", "x-auditable": True}), "q=12", "?q=12"),
            (in_query("q", {"type": "integer", "x-auditable": True}), "q=1x", ""),
            (in_query("q", {"type": "boolean", "x-auditable": True}), "q=true", "?q=true"),
            (in_query("q", {"type": "boolean", "x-auditable": True}), "q=1", ""),
            (in_query("q", {"x-auditable": True}), "q=s", ""),
            ({"name": "q", "in": "query", "content": {"application/json": {"schema": MARKED}}}, "q=s", ""),
        ],
    )
    def test_scalars(self, parameter: Node, query: str, expected: str) -> None:
        assert uri("/things", f"/things?{query}", [parameter]) == f"/things{expected}"

    def test_elements_that_do_not_fit_are_removed(self) -> None:
        numbers = {"type": "array", "items": {"type": "integer", "x-auditable": True}}
        assert uri("/things", "/things?q=1&q=s&q=2", [in_query("q", numbers)]) == "/things?q=1&q=2"
        assert uri("/things", "/things?q=1,s", [in_query("q", numbers, explode=False)]) == "/things?q=1"

    def test_a_name_that_two_parameters_claim_is_kept_for_none(self) -> None:
        exploded = in_query("q", an_object(a=MARKED, b=TEXT, c=MARKED))
        assert uri("/things", "/things?a=s&c=1", [exploded, in_query("a", TEXT)]) == "/things?c=1"
        assert (
            uri("/things", "/things?a=s&c=1", [exploded, in_query("p", an_object(a=DENIED))]) == "/things?c=1"
        )
        assert uri("/things", "/things?a=s", [exploded, in_query("a", MARKED)]) == "/things"

    def test_what_does_not_fit_the_limit_is_left_out(self) -> None:
        parameters = [in_query(name, MARKED) for name in ("a", "b", "c")]
        found = uri("/t", "/t?a=1&b=22222222&c=3", parameters, limits=Limits(uri_bytes_max=12))
        assert found == "/t?a=1&c=3"

    def test_an_unkept_query_never_matters(self) -> None:
        bare = uri("/things", "/things", [in_query("q", MARKED)])
        for query in ("?x=" + "s" * 60_000, "?&&&", "?=&=s", "?%", "?x[]=s&x=t", "??q=s"):
            assert uri("/things", "/things" + query, [in_query("q", MARKED)]) == bare

    def test_the_operations_parameter_replaces_its_paths_but_not_a_denial(self) -> None:
        for path_level, expected in ((TEXT, "/things?q=1"), (DENIED, "/things")):
            item = {
                "parameters": [in_query("q", path_level)],
                "get": an_operation(parameters=[in_query("q", MARKED)]),
            }
            event = event_of(
                a_redactor(a_document({"/things": item})), a_pair(method="GET", url="/things?q=1")
            )
            assert event.raw.uri == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/accounts/7/unknown/s3cret", "/accounts/…"),
        ("/accounts/x%2fy/s3cret", "/accounts/…"),
        ("/s3cret", "/…"),
        ("/accounts/search/deep/s3cret", "/accounts/search/deep/…"),
        ("/accounts/search/s3cret?q=s3cret", "/accounts/search/…"),
        ("*", "/…"),
        ("s3cret:443", "/…"),
        ("//s3cret/accounts", "/…"),
    ],
)
def test_an_unmatched_path_is_recorded_in_the_tables_own_text(url: str, expected: str) -> None:
    paths = {
        "/accounts/{account_id}": {"get": an_operation()},
        "/accounts/search/deep/x": {"get": an_operation()},
    }
    event = event_of(a_redactor(a_document(paths)), a_pair(method="PUT", url=url))
    assert event.receipt.operation is None
    assert event.raw.uri == expected


def test_a_path_item_or_operation_that_is_sensitive_keeps_no_variable() -> None:
    for item in (
        {"x-sensitive": True, "get": an_operation()},
        {"x-auditable": False, "get": an_operation()},
        {"get": an_operation(**{"x-sensitive": True})},
    ):
        event = event_of(
            a_redactor(a_document({"/accounts/{account_id}": item})), a_pair(method="GET", url="/accounts/7")
        )
        assert event.raw.uri == "/accounts/{account_id}"
        assert event.account.id is None
        assert event.resource.id is None


def test_numbers_that_are_too_long_are_no_values_of_path_and_query() -> None:
    number: Node = {"type": "number", "x-auditable": True}
    parameters = [in_path("n", number), in_query("q", number)]
    short, long = "9" * 128, "9" * 129
    assert uri("/things/{n}", f"/things/{short}?q={short}", parameters) == f"/things/{short}?q={short}"
    assert uri("/things/{n}", f"/things/{long}?q={long}", parameters) == "/things/{n}"
