"""Rule 13, by the styles in which OpenAPI lets parameters be written, those included that mean nothing where they stand."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.redactor.schemas import DENIED, MARKED, TEXT, Node, an_object
from tests.unit.redactor.test_rule_13_url import in_path, in_query, uri

LIST: Node = {"type": "array", "items": MARKED}
UNMARKED_LIST: Node = {"type": "array", "items": TEXT}
NUMBERS: Node = {"type": "array", "items": {"type": "integer", "x-auditable": True}}
OBJECT = an_object(a=MARKED, b=TEXT, c={"type": "integer", "x-auditable": True})
UNMARKED_OBJECT = an_object(a=TEXT, b=TEXT, c=TEXT)
NESTED = an_object(a=MARKED, deep=an_object(a=MARKED), list=LIST)
MAP: Node = {"type": "object", "x-auditable": True, "additionalProperties": MARKED}
FREE_FORM: Node = {"type": "object", "x-auditable": True}


@pytest.mark.parametrize("explode", [True, False])
@pytest.mark.parametrize(
    "style", ["form", "spaceDelimited", "pipeDelimited", "deepObject", "simple", "other"]
)
@pytest.mark.parametrize(
    ("schema", "query", "expected"),
    [(MARKED, "q=k", "?q=k"), (MARKED, "q=s&q=t", ""), (TEXT, "q=s", ""), (DENIED, "q=s", "")],
)
def test_a_scalar_is_written_alike_in_every_style(
    schema: Node, query: str, expected: str, style: str, explode: bool
) -> None:
    parameter = in_query("q", schema, style=style, explode=explode)
    assert uri("/t", f"/t?{query}", [parameter]) == f"/t{expected}"


# Schema; then style, `explode`, the query and what is recorded of it.
QUERIES: list[tuple[Node, list[tuple[Any, bool, str, str]]]] = [
    (
        NUMBERS,
        [
            ("form", True, "q=1&q=2", "?q=1&q=2"),
            ("form", True, "q=1&q=s&q=2", "?q=1&q=2"),
            ("form", True, "q=1,2", ""),
            ("form", True, "q=1%2C2", ""),
            ("form", True, "q=1|2", ""),
            ("form", True, "q=1;2", ""),
            ("form", True, "q[]=1&q[0]=2", ""),
            ("form", False, "q=1,2", "?q=1%2C2"),
            ("form", False, "q=1,s,2", "?q=1%2C2"),
            ("form", False, "q=1%2C2", ""),
            ("form", False, "q=1,2%2C3", ""),
            ("form", False, "q=1|2", ""),
            ("form", False, "q=1&q=2", ""),
            ("form", False, "q=s", ""),
            ("form", False, "q=", ""),
            ("spaceDelimited", True, "q=1&q=2", "?q=1&q=2"),
            ("spaceDelimited", True, "q=1%202", ""),
            ("spaceDelimited", False, "q=1%202", "?q=1%202"),
            ("spaceDelimited", False, "q=1+2", "?q=1%202"),
            ("spaceDelimited", False, "q=1%20s", "?q=1"),
            ("spaceDelimited", False, "q=1,2", ""),
            ("spaceDelimited", False, "q=1%202,3", ""),
            ("spaceDelimited", False, "q=1&q=2", ""),
            ("pipeDelimited", True, "q=1&q=2", "?q=1&q=2"),
            ("pipeDelimited", True, "q=1|2", ""),
            ("pipeDelimited", False, "q=1|2", "?q=1%7C2"),
            ("pipeDelimited", False, "q=1%7C2|s", "?q=1%7C2"),
            ("pipeDelimited", False, "q=1,2", ""),
            ("pipeDelimited", False, "q=1|2;3", ""),
            ("deepObject", True, "q[0]=1&q=1", ""),
            ("deepObject", False, "q=1", ""),
            ("simple", False, "q=1,2", ""),
            ("label", False, "q=.1.2", ""),
            ("matrix", True, "q=1", ""),
            (7, True, "q=1", ""),
        ],
    ),
    (
        LIST,
        [
            ("form", True, "q=a&x=s&q=b", "?q=a&q=b"),
            ("form", True, "q=a,b", ""),
            ("form", True, "q=a&q=b|c", "?q=a"),
            ("form", False, "q=a,b", "?q=a%2Cb"),
            ("form", False, "q=a%2Cb", ""),
            ("form", False, "q=a,b|c", ""),
            ("form", False, "q=a&q=b", ""),
            ("pipeDelimited", False, "q=a%7Cb", "?q=a%7Cb"),
            ("pipeDelimited", False, "q=a,b", ""),
            ("spaceDelimited", False, "q=a%20b", "?q=a%20b"),
            ("spaceDelimited", False, "q=a,b", ""),
            ("deepObject", True, "q=a", ""),
        ],
    ),
    (
        OBJECT,
        [
            ("form", True, "c=1&a=k&b=s", "?a=k&c=1"),
            ("form", True, "a=k&a=s&c=1", "?c=1"),
            ("form", True, "a=k;b=s&c=1", "?c=1"),
            ("form", True, "c=s&a=k", "?a=k"),
            ("form", True, "q=a,s", ""),
            ("form", True, "q[a]=s", ""),
            ("form", False, "q=c,1,a,k,b,s", "?q=a,k,c,1"),
            ("form", False, "q=a,k,c,s", "?q=a,k"),
            ("form", False, "q=a,k,a,s", ""),
            ("form", False, "q=a,k%2Cb,s", ""),
            ("form", False, "q=a,k,b", ""),
            ("form", False, "q=a,k|l", ""),
            ("form", False, "a=s", ""),
            ("deepObject", True, "q[c]=1&q[a]=k&q[b]=s", "?q%5Ba%5D=k&q%5Bc%5D=1"),
            ("deepObject", True, "q%5Ba%5D=k", "?q%5Ba%5D=k"),
            ("deepObject", True, "q[a]=k&q%5Ba%5D=s", ""),
            ("deepObject", True, "q[a][x]=s&q[b][a]=s&q[]=s&q.a=s&a=s", ""),
            ("deepObject", False, "q[a]=k", "?q%5Ba%5D=k"),
            ("spaceDelimited", False, "q=a%20s", ""),
            ("spaceDelimited", True, "q=a%20s&a=s", ""),
            ("pipeDelimited", False, "q=a|s", ""),
            ("simple", False, "q=a,s", ""),
            ("simple", True, "q=a=s&a=s", ""),
            ("form", True, "c=1&a=2&b=s&x=s", "?a=2&c=1"),
            ("form", False, "q=c,1,b,s,x,s", "?q=c,1"),
            ("form", False, "q=c,1,c,s", ""),
            ("form", False, "q=c,1,a", ""),
            ("deepObject", True, "q[c]=1&q[b]=s&q[c][d]=s&q=s", "?q%5Bc%5D=1"),
            ("pipeDelimited", False, "q=c|1", ""),
        ],
    ),
]


@pytest.mark.parametrize(
    ("schema", "style", "explode", "query", "expected"),
    [(schema, *row) for schema, rows in QUERIES for row in rows],
)
def test_arrays_and_objects_in_the_query(
    schema: Node, style: Any, explode: bool, query: str, expected: str
) -> None:
    assert uri("/t", f"/t?{query}", [in_query("q", schema, style=style, explode=explode)]) == f"/t{expected}"
    unmarked = UNMARKED_OBJECT if schema is OBJECT else UNMARKED_LIST
    assert uri("/t", f"/t?{query}", [in_query("q", unmarked, style=style, explode=explode)]) == "/t"


@pytest.mark.parametrize(
    ("style", "explode", "query"),
    [
        ("form", True, "deep=s&list=s&q=s"),
        ("form", False, "q=deep,s,list,s"),
        ("deepObject", True, "q[deep]=s&q[deep][a]=s&q[list]=s&q[list][0]=s"),
    ],
)
def test_what_is_no_scalar_within_an_object_is_not_recorded(style: str, explode: bool, query: str) -> None:
    assert uri("/t", f"/t?{query}", [in_query("q", NESTED, style=style, explode=explode)]) == "/t"


@pytest.mark.parametrize("schema", [MAP, FREE_FORM])
@pytest.mark.parametrize(
    ("style", "explode", "query"),
    [("form", True, "x=s&q=s"), ("form", False, "q=x,s"), ("deepObject", True, "q[x]=s")],
)
def test_keys_that_are_data_are_not_recorded(schema: Node, style: str, explode: bool, query: str) -> None:
    assert uri("/t", f"/t?{query}", [in_query("q", schema, style=style, explode=explode)]) == "/t"


@pytest.mark.parametrize("explode", [True, False])
@pytest.mark.parametrize(
    ("style", "schema", "segment", "expected"),
    [
        ("simple", MARKED, "k", "k"),
        ("simple", MARKED, "k,l", "k,l"),
        ("simple", TEXT, "s", None),
        ("simple", DENIED, "s", None),
        ("simple", LIST, "s,t", None),
        ("simple", OBJECT, "a,s", None),
        ("simple", OBJECT, "a=s", None),
        ("label", TEXT, ".s", None),
        ("label", LIST, ".s.t", None),
        ("label", OBJECT, ".a=s", None),
        ("matrix", LIST, "v=s", None),
    ],
)
def test_in_a_path_only_scalars_are_recorded(
    style: str, explode: bool, schema: Node, segment: str, expected: str | None
) -> None:
    parameter = in_path("v", schema, style=style, explode=explode)
    assert uri("/t/{v}", f"/t/{segment}", [parameter]) == f"/t/{expected or '{v}'}"


@pytest.mark.parametrize("location", ["header", "cookie"])
def test_header_and_cookie_parameters_are_never_recorded(location: str) -> None:
    for parameter in (
        {"name": "q", "in": location, "schema": MARKED, "x-auditable": True},
        {"name": "id", "in": location, "schema": MARKED, "x-auditable": True},
    ):
        assert uri("/t/{v}", "/t/s?q=s&id=s", [parameter]) == "/t/{v}"
    # Nor does a denial there say anything of another parameter of that name.
    assert uri("/t", "/t?q=k", [{"name": "q", "in": location, "schema": DENIED}, in_query("q", MARKED)]) == (
        "/t?q=k"
    )


def test_declarations_that_differ_in_true_and_one_are_not_the_same() -> None:
    marked, denied = (in_query("q", an_object(a=TEXT | {"x-auditable": value})) for value in (True, 1))
    assert uri("/t", "/t?a=k", [marked, marked]) == "/t?a=k"
    for declarations in ([marked, denied], [denied, marked]):
        assert uri("/t", "/t?a=s", declarations) == "/t"
