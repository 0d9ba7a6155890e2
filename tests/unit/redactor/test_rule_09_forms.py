from __future__ import annotations

import gzip
import urllib.parse
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redactor.config import Limits
from schemas.event import BodyReason
from tests.unit.redactor.raw_bodies import FORM, MULTIPART, a_form, a_part, recorded_of
from tests.unit.redactor.schemas import DENIED, MARKED, TEXT, Node, a_marked_object, an_object

MARK: Node = {"x-auditable": True}
INTEGER: Node = {"type": "integer"} | MARK
NUMBER: Node = {"type": "number"} | MARK
BOOLEAN: Node = {"type": "boolean"} | MARK
FILE: Node = MARKED | {"format": "binary"}
LIST: Node = {"type": "array", "items": MARKED}
NUMBERS: Node = {"type": "array", "items": {"type": "integer"}} | MARK
META = an_object(a=MARKED, b=TEXT)
METAS: Node = {"type": "array", "items": META}
JSON_ENCODED: Node = {"v": {"contentType": "application/json"}}
MULTI = MULTIPART + "; boundary=XX"
FILE_NAME = '; filename="f.txt"'


UNALLOWED = st.builds(
    "v{}={}".format,
    st.sampled_from(
        ["", "[]", "[secret]", "[secret][x]", "[x]", "[a][b]", "[a]]", "[a", "[items]", "[items][1]", "[items][0][note]",
         "[items][x][price]", "[items][][price]", "[items][1][price][x]", "[items][01][price]", "[items][2][x]",
         "[map]", "[map][k][x]", "[map][]", "[map]k", "[map][k", "[kept][a]"]
    ),
    st.sampled_from(["s3cret", "1", ""]),
)  # fmt: skip


def fields(*pairs: tuple[str, str]) -> bytes:
    return a_form(*(a_part(name, value) for name, value in pairs))


@pytest.mark.parametrize(
    ("schema", "values", "expected"),
    [
        (MARKED, ["1"], "1"),
        (MARKED, [""], ""),
        (MARKED, ["é \U0001f600"], "é \U0001f600"),
        (TEXT, ["s"], None),
        (DENIED, ["s"], None),
        (INTEGER, ["12"], 12),
        (INTEGER, ["1.5"], None),
        (INTEGER, ["s"], None),
        (INTEGER, [""], None),
        (NUMBER, ["1.50"], 1.5),
        (BOOLEAN, ["true"], True),
        (BOOLEAN, ["1"], None),
        ({"anyOf": [MARKED, INTEGER]}, ["12"], "12"),
        (MARKED, ["1", "2"], None),
        (LIST, ["1", "2"], ["1", "2"]),
        (LIST, ["1"], ["1"]),
        (NUMBERS, ["1", "s", "3"], [1, 3]),
        # Only what is kept of its elements shows that the list is there.
        (NUMBERS, ["s"], None),
        (METAS | MARK, ['{"b":"s"}'], None),
        (METAS | MARK, ['{"b":"s"}', '{"a":"1"}'], [{"a": "1"}]),
        ({"type": "array", "items": TEXT}, ["s"], None),
        ({"oneOf": [MARKED, NUMBERS]}, ["1"], "1"),
        ({"oneOf": [MARKED, NUMBERS]}, ["1", "2"], [1, 2]),
        # One value may be the scalar that is not marked; several are a list.
        ({"anyOf": [TEXT, LIST]}, ["s"], None),
        ({"anyOf": [TEXT, LIST]}, ["1", "2"], ["1", "2"]),
        ({"type": ["string", "array"], "items": MARKED}, ["s"], None),
        (META, ['{"a":"1","b":"s"}'], {"a": "1"}),
        (META, ['{"a":"1"}', '{"a":"2"}'], None),
        (META, ['{"a":'], None),
        (META, ["s"], None),
        (METAS, ['{"a":"1"}', '{"b":"s"}', "s", '{"a":"2"}'], [{"a": "1"}, {"a": "2"}]),
        ({"type": "object"} | MARK, ['{"z":1}'], {"z": 1}),
        (an_object(a=TEXT), ['{"a":"s"}'], None),
        ({"anyOf": [META, MARKED]}, ['{"a":"1"}'], {"a": "1"}),
        ({"anyOf": [META | MARK, MARKED]}, ['{"a":"1","b":"s"}'], {"a": "1"}),
        ({"anyOf": [META | MARK, MARKED]}, ["1"], "1"),
        ({"anyOf": [META | MARK, TEXT]}, ["s"], None),
    ],
)
def test_fields_are_read_by_the_schema(schema: Node, values: list[str], expected: Any) -> None:
    root = an_object(v=schema, w=MARKED)
    pairs = [("x", "s"), ("w", "1"), *(("v", value) for value in values)]
    found = {"w": "1"} if expected is None else {"v": expected, "w": "1"}
    assert recorded_of(root, fields(*pairs), MULTI) == found
    assert recorded_of(root, urllib.parse.urlencode(pairs).encode(), FORM) == found


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ({"style": "form"}, {"w": "1"}),
        ({"explode": True}, {"w": "1"}),
        ({"style": "form", "explode": False}, {"a": "1", "w": "1"}),
        ({}, {"a": "1", "w": "1"}),
    ],
)
def test_a_field_that_may_be_a_property_of_an_exploded_object_is_not_read(
    encoding: Node, expected: Any
) -> None:
    root = an_object(a=MARKED, w=MARKED, v=an_object(a=TEXT))
    assert recorded_of(root, b"a=1&w=1", FORM, encoding={"v": encoding}) == expected


TUPLE: Node = {"type": "array", "prefixItems": [INTEGER, {"type": "integer"}], "items": INTEGER}


class TestTuples:
    """A field's place says which slot it is for: one that does not fit must not move those behind it."""

    @pytest.mark.parametrize(
        ("texts", "expected"),
        [
            (["1", "42", "7"], [1, None, 7]),
            (["s", "42", "7"], [None, None, 7]),
            (["s", "42"], None),
            (["1", "s"], [1]),
        ],
    )
    def test_of_repeated_fields_in_one_field_and_by_index(self, texts: list[str], expected: Any) -> None:
        found = {"w": "1"} if expected is None else {"v": expected, "w": "1"}
        root = an_object(v=TUPLE, w=MARKED)

        def recorded(body: str, encoding: Node) -> Any:
            return recorded_of(root, f"w=1&{body}".encode(), FORM, version="3.1.0", encoding={"v": encoding})

        assert recorded("&".join(f"v={each}" for each in texts), {}) == found
        indexed = "&".join(f"v[{index}]={each}" for index, each in enumerate(texts))
        assert recorded(indexed, {"style": "deepObject"}) == found
        assert recorded("v=" + ",".join(texts), {"explode": False}) == found

    def test_an_element_without_an_index_is_in_no_slot(self) -> None:
        root = an_object(v=TUPLE, w=MARKED)
        found = recorded_of(
            root, b"w=1&v[]=1&v[]=42", FORM, version="3.1.0", encoding={"v": {"style": "deepObject"}}
        )
        assert found == {"w": "1"}


class TestUrlencoded:
    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            (b"w=a+b%2Bc%26", {"w": "a b+c&"}),
            (b"%77=1", {"w": "1"}),
            (b"w", {"w": ""}),
            (b"&&w=1&", {"w": "1"}),
            (b"w=1;x=s", None),
            (b"w=1%3B2", {"w": "1;2"}),
            (b"w=%zz", None),
            (b"w=%ff", None),
            (b"w=1&w=%ff", None),
            (b"w[]=1", None),
            (b"W=s", None),
            ("w=é".encode(), {"w": "é"}),
            (b"w=\xff", BodyReason.MALFORMED),
            (b"\xef\xbb\xbfw=1", BodyReason.MALFORMED),
            (b"a=&b=&c=&d=&w=1", BodyReason.TOO_LARGE),
        ],
    )
    def test_pairs(self, body: bytes, expected: Any) -> None:
        assert recorded_of(an_object(w=MARKED), body, FORM, limits=Limits(form_fields_max=4)) == expected

    @pytest.mark.parametrize(
        "encoding",
        [
            {"style": "spaceDelimited", "explode": True},
            {"style": "simple"},
            {"style": []},
            {"style": "deepObject"},
            {"style": "deepObject", "contentType": "text/plain"},
            {"explode": 0},
            {"explode": 1},
            {"explode": False, "contentType": "text/plain"},
            {"x-sensitive": True},
            7,
        ],
    )
    def test_other_ways_of_writing_a_field_are_not_read(self, encoding: Any) -> None:
        assert recorded_of(an_object(w=LIST, u=MARKED), b"w=1&u=2", FORM, encoding={"w": encoding}) == {
            "u": "2"
        }


DEEP_STYLE: Node = {"v": {"style": "deepObject", "explode": True}}
ITEM = an_object(price=NUMBER, note=TEXT, tags=LIST, inner=META)
ITEMS: Node = {"type": "array", "items": ITEM}
MAP: Node = {"type": "object", "additionalProperties": MARKED} | MARK
VARIANTS: Node = {
    "oneOf": [
        an_object(kind=MARKED | {"enum": [kind]}, a=MARKED if kind == "x" else TEXT) for kind in ("x", "y")
    ]
}


class TestDeepObjects:
    @pytest.mark.parametrize(
        ("schema", "pairs", "expected"),
        [
            (META, ["v[a]=1", "v[b]=s", "v[c]=s"], {"a": "1"}),
            (META, ["v[b]=s", "v[a]=1"], {"a": "1"}),
            (META | MARK, ["v[b]=s"], None),
            (META, ["v[a]=1", "v=s", "v[]=s", "v[a][x]=s", "v[a]x=s", "v[a", "v.a=s", "v[[a]]=s"], {"a": "1"}),
            (META, ["v[a]=1", "v[a]=2"], None),
            (META, ["v[a]=1;2"], None),
            (META, ['v={"a":"s"}'], None),
            (an_object(a=META), ["v[a][a]=1", "v[a][b]=s"], {"a": {"a": "1"}}),
            (ITEMS, ["v[0][price]=1.50", "v[0][note]=s", "v[0][inner][a]=2"], [{"price": 1.5, "inner": {"a": "2"}}]),
            (ITEMS, ["v[10][price]=3", "v[2][price]=1", "v[5][note]=s"], [{"price": 1}, {"price": 3}]),
            (ITEMS, ["v[0][price]=s", "v[00][price]=1", "v[x][price]=1", "v[-1][price]=1", "v[][price]=1"], None),
            (ITEMS, ["v[0][tags][]=1", "v[0][tags][]=2"], [{"tags": ["1", "2"]}]),
            (LIST, ["v[]=1", "v[]=2"], ["1", "2"]),
            (LIST, ["v[1]=2", "v[0]=1", "v[x]=s"], ["1", "2"]),
            (NUMBERS, ["v[]=1", "v[]=s"], [1]),
            (NUMBERS, ["v[]=s"], None),
            (MAP, ["v[z]=1", "v[a]=2", "v[a][b]=s"], {"a": "2", "z": "1"}),
            (MAP | {"x-auditable": False}, ["v[z]=s"], None),
            ({"type": "object", "additionalProperties": MARKED}, ["v[z]=s"], None),
            ({"type": "object"} | MARK, ["v[z]=1", "v[y][x]=2"], {"z": "1", "y": {"x": "2"}}),
            ({"anyOf": [META, MARKED]}, ["v[a]=1"], {"a": "1"}),
            ({"anyOf": [NUMBERS, MARKED]}, ["v[]=1"], [1]),
            ({"anyOf": [NUMBERS, MARKED]}, ["v=1", "v[x]=s"], "1"),
            ({"anyOf": [NUMBERS, MARKED]}, ["v=1", "v[]=1"], None),
            ({"anyOf": [META, TEXT]}, ["v=s", "v[a]=1"], {"a": "1"}),
            (VARIANTS, ["v[kind]=x", "v[a]=1"], {"kind": "x", "a": "1"}),
            (VARIANTS, ["v[kind]=y", "v[a]=s"], {"kind": "y"}),
            (VARIANTS, ["v[a]=s"], None),
            (DENIED, ["v=s", "v[a]=s"], None),
            (an_object(a=DENIED, b=MARKED), ["v[a]=s", "v[b]=1"], {"b": "1"}),
            # A file somewhere in it.
            (an_object(a=MARKED, f=FILE), ["v[a]=s", "v[f]=s"], None),
            (an_object(a=MARKED, f={"type": "array", "items": FILE}), ["v[a]=s"], None),
        ],
    )  # fmt: skip
    def test_deep_fields(self, schema: Node, pairs: list[str], expected: Any) -> None:
        root = an_object(v=schema, w=MARKED)
        found = {"w": "1"} if expected is None else {"v": expected, "w": "1"}
        body = "&".join(["w=1", *pairs])
        assert recorded_of(root, body.encode(), FORM, encoding=DEEP_STYLE) == found
        escaped = body.replace("[", "%5B").replace("]", "%5d")
        assert recorded_of(root, escaped.encode(), FORM, encoding=DEEP_STYLE) == found
        parts = fields(*((each.partition("=")[0], each.partition("=")[2]) for each in body.split("&")))
        if ";" not in body and '"' not in body:
            assert recorded_of(root, parts, MULTI, encoding=DEEP_STYLE) == found

    def test_without_the_style_brackets_are_not_read(self) -> None:
        assert recorded_of(an_object(v=META, w=MARKED), b"w=1&v[a]=s", FORM) == {"w": "1"}

    def test_a_property_named_like_a_part_of_a_deep_field_is_kept_for_neither(self) -> None:
        root = an_object(v=META, w=MARKED) | {}
        root["properties"]["v[a]"] = MARKED
        assert recorded_of(root, b"w=1&v[a]=s", FORM, encoding=DEEP_STYLE) == {"w": "1"}

    def test_names_that_go_deeper_than_the_limit_are_left_out(self) -> None:
        free: Node = {"type": "object"} | MARK
        body = b"v[a]=1&v" + b"[a]" * 100_000 + b"=s&v[b][b]=2"
        found = recorded_of(an_object(v=free), body, FORM, encoding=DEEP_STYLE, limits=Limits(depth_max=4))
        assert found == {"v": {"a": "1", "b": {"b": "2"}}}

    @settings(max_examples=60)
    @given(st.lists(UNALLOWED, min_size=1, max_size=6), st.randoms(use_true_random=False))
    def test_fields_that_are_not_allowed_change_nothing(self, others: list[str], order: Random) -> None:
        root = an_object(v=an_object(a=MARKED, items=ITEMS, map=MAP, secret=TEXT), w=MARKED)
        kept = ["w=1", "v[a]=1", "v[items][1][price]=2", "v[map][k]=3"]
        mixed = [*kept, *others]
        order.shuffle(mixed)
        for allowed, given_fields in ((kept, mixed), (["w=1"], ["w=1", *others])):
            one, other = (
                recorded_of(root, "&".join(each).encode(), FORM, encoding=DEEP_STYLE)
                for each in (allowed, given_fields)
            )
            assert one == other


@pytest.mark.parametrize(
    ("encoding", "schema", "value", "expected"),
    [
        ({"explode": False}, LIST, "1,2", ["1", "2"]),
        ({"style": "spaceDelimited"}, LIST, "1 2", ["1", "2"]),
        ({"style": "pipeDelimited", "explode": False}, NUMBERS, "1|s|3", [1, 3]),
        ({"style": "pipeDelimited"}, LIST, "1,2", None),
        ({"explode": False}, LIST, "1|2", None),
        ({"explode": False}, MARKED, "1,2", "1,2"),
        ({"explode": False}, METAS, '{"a":"s"}', None),
        ({"explode": False}, META, "a,s", None),
        ({"explode": False}, {"anyOf": [LIST, TEXT]}, "s", None),
        ({"explode": False}, {"type": "array", "items": TEXT}, "s", None),
    ],
)
def test_lists_in_one_field(encoding: Node, schema: Node, value: str, expected: Any) -> None:
    root, body = an_object(v=schema, w=MARKED), fields(("v", value), ("w", "1"))
    found = {"w": "1"} if expected is None else {"v": expected, "w": "1"}
    assert recorded_of(root, body, MULTI, encoding={"v": encoding}) == found
    twice = fields(("v", value), ("v", value), ("w", "1"))
    assert recorded_of(root, twice, MULTI, encoding={"v": encoding}) == {"w": "1"}


class TestMultipart:
    @pytest.mark.parametrize(
        ("schema", "part", "expected"),
        [
            # JSON where an object is due or the document says so, with a file name or not.
            (META, a_part("v", '{"a":"1"}', disposition=FILE_NAME), {"a": "1"}),
            (
                META,
                a_part("v", '{"a":"1"}', "Content-Type: application/json", disposition=FILE_NAME),
                {"a": "1"},
            ),
            (META, a_part("v", '{"a":"1"}', "Content-Type: text/plain"), {"a": "1"}),
            # Any other part with a file name is a file; so is what the schema or the part says is binary.
            (MARKED, a_part("v", "s", disposition=FILE_NAME), None),
            (MARKED, a_part("v", "s", disposition="; filename=f"), None),
            (MARKED, a_part("v", "s", disposition="; filename*=UTF-8''f"), None),
            (MARKED, a_part("v", "s", disposition='; filename=""'), None),
            (FILE, a_part("v", "s"), None),
            ({"type": "array", "items": FILE}, a_part("v", "s"), None),
            ({"allOf": [MARKED, {"format": "binary"}]}, a_part("v", "s"), None),
            (MARKED | {"contentMediaType": "image/png"}, a_part("v", "s"), None),
            (MARKED, a_part("v", "s", "Content-Type: application/octet-stream"), None),
            (MARKED, a_part("v", "1", "Content-Type: text/plain; charset=UTF-8"), "1"),
            (MARKED, a_part("v", "s", "Content-Type: text/plain; charset=utf-16"), None),
            (MARKED, a_part("v", b"\xff"), None),
            (MARKED, a_part("v", "1", "Content-Transfer-Encoding: binary"), "1"),
            (MARKED, a_part("v", "cw==", "Content-Transfer-Encoding: base64"), None),
            (META, a_part("v", "e30=", "Content-Transfer-Encoding: base64"), None),
            (MARKED, a_part("v", "1\r\n\r\n2\r\n"), "1\r\n\r\n2\r\n"),
            (MARKED, a_part("v", "1", "X-Other: s"), "1"),
        ],
    )
    def test_parts(self, schema: Node, part: bytes, expected: Any) -> None:
        root = an_object(v=schema, w=MARKED)
        found = {"w": "1"} if expected is None else {"v": expected, "w": "1"}
        assert recorded_of(root, a_form(a_part("w", "1"), part), MULTI, version="3.1.0") == found

    @pytest.mark.parametrize(
        ("schema", "encoding", "values", "expected"),
        [
            (MARKED, JSON_ENCODED, ['"1"'], "1"),
            (MARKED, JSON_ENCODED, ["1"], None),
            (NUMBER, JSON_ENCODED, ["1.5"], 1.5),
            (FILE, JSON_ENCODED, ['"1"'], "1"),
            (LIST, JSON_ENCODED, ['["1", 2]'], ["1"]),
            (LIST, JSON_ENCODED, ['"1"', '"2"'], ["1", "2"]),
            (METAS, JSON_ENCODED, ['[{"a":"1"}]'], [{"a": "1"}]),
            (META, {"v": {"contentType": "application/scim+json; charset=utf-8"}}, ['{"a":"1"}'], {"a": "1"}),
            (MARKED, {"v": {"contentType": "text/plain"}}, ["1"], "1"),
            (MARKED, {"v": {"contentType": "image/png, image/jpeg"}}, ["s"], None),
            (META, {"v": {"contentType": "application/xml"}}, ['{"a":"s"}'], None),
            (META, {"v": {"contentType": "application/json", "x-sensitive": True}}, ['{"a":"s"}'], None),
            (META, {"v": {}, "x-auditable": False}, ['{"a":"s"}'], None),
        ],
    )
    def test_the_documents_encoding(
        self, schema: Node, encoding: Node, values: list[str], expected: Any
    ) -> None:
        body = fields(("w", "1"), *(("v", value) for value in values))
        found = {"w": "1"} if expected is None else {"v": expected, "w": "1"}
        assert recorded_of(an_object(v=schema, w=MARKED), body, MULTI, encoding=encoding) == found

    @pytest.mark.parametrize(
        "content_type",
        [
            MULTIPART,
            MULTI + "; boundary=YY",
            MULTIPART + '; boundary="a\\"b"',
            MULTIPART + "; boundary=" + "x" * 71,
        ],
    )
    def test_without_one_clear_boundary_it_is_no_known_type(self, content_type: str) -> None:
        assert recorded_of(an_object(w=MARKED), fields(("w", "1")), content_type) is BodyReason.MEDIA_TYPE

    def test_a_quoted_boundary(self) -> None:
        assert recorded_of(an_object(w=MARKED), fields(("w", "1")), MULTIPART + '; Boundary="XX"') == {
            "w": "1"
        }

    W = a_part("w", "1")

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"--XX--\r\n",
            W,
            W + b"--XX",
            W + b"--XX--\r\nepilogue",
            b"preamble\r\n" + W + b"--XX--",
            b"\r\n" + W + b"--XX--",
            W.replace(b"--XX\r\n", b"--XX \r\n") + b"--XX--",
            W.replace(b"--XX\r\n", b"--XX\n") + b"--XX--",
            a_form(a_part("x", "s\n--XX\nContent-Disposition: form-data; name=w\n\n1")),
            a_form(a_part("x", "s\r\n--XXY\r\n")),
            a_form(W.replace(b"\r\n", b"\n")),
            a_form(W.replace(b"\r\n\r\n", b"\r\n")),
            a_form(a_part("w", "s", " folded")),
            a_form(a_part("w", "s", "Content-Disposition: form-data; name=x")),
            a_form(a_part("w", "s", disposition='; name="x"')),
            a_form(a_part("w", "s", disposition="; name*=UTF-8''x")),
            a_form(a_part("w", "s", disposition='; filename="a\\"; name=x"')),
            a_form(a_part("w", "s", disposition="; other=1")),
            a_form(a_part("w", "s", disposition="; name")),
            a_form(a_part('a\\"; name="w', "s")),
            a_form(a_part("w", "s", "Bad header: x")),
            a_form(a_part("w", "s", "No colon")),
            a_form(a_part("w", "s", "X-Nul: \0")),
            a_form(a_part("w", "s", "X-Bare: a\rb")),
            a_form(a_part("w", "s", "X-Long: " + "x" * 9000)),
            a_form(W.replace(b"form-data", b"attachment")),
            a_form(W.replace(b'; name="w"', b"")),
            a_form(W.replace(b"Content-Disposition", b"X-Disposition")),
        ],
    )  # fmt: skip
    def test_what_two_parsers_might_read_differently_is_malformed(self, body: bytes) -> None:
        assert recorded_of(an_object(w=MARKED), body or b" ", MULTI) is BodyReason.MALFORMED

    def test_too_many_parts(self) -> None:
        body = fields(*(("x", "s") for _ in range(5)))
        assert (
            recorded_of(an_object(w=MARKED), body, MULTI, limits=Limits(form_fields_max=4))
            is BodyReason.TOO_LARGE
        )


@pytest.mark.parametrize(
    ("schema", "pairs", "expected"),
    [
        (a_marked_object(v=MARKED), [("x", "s")], {}),
        (an_object(v=MARKED), [("x", "s")], None),
        ({"type": "object"} | MARK, [("x", "s")], {}),
        ({"type": "object", "additionalProperties": MARKED} | MARK, [("x", "s")], {}),
        (MARKED, [("x", "s")], None),
        (
            {"allOf": [an_object(v=MARKED), an_object(v=TEXT, w=MARKED)]},
            [("w", "2"), ("v", "1")],
            {"v": "1", "w": "2"},
        ),
        ({"anyOf": [an_object(v=MARKED), an_object(v=TEXT)]}, [("v", "s")], None),
    ],
)
def test_a_form_is_an_object_of_declared_properties(
    schema: Node, pairs: list[tuple[str, str]], expected: Any
) -> None:
    assert recorded_of(schema, fields(*pairs), MULTI) == expected


def branch(kind: Any, **properties: Node) -> Node:
    return an_object(kind=kind | MARK, **properties)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("a", {"kind": "a", "x": "1"}),
        ("2", {"kind": 2, "y": "2"}),
        ("c", BodyReason.NO_BRANCH),
        ("", BodyReason.NO_BRANCH),
    ],
)
def test_a_field_distinguishes_branches_by_what_it_is_read_as(kind: str, expected: Any) -> None:
    schema = {
        "oneOf": [
            branch({"type": "string", "enum": ["a"]}, x=MARKED, y=TEXT),
            branch({"type": "integer", "enum": [2]}, x=TEXT, y=MARKED),
        ]
    }
    assert recorded_of(schema, fields(("kind", kind), ("x", "1"), ("y", "2")), MULTI) == expected
    assert recorded_of(schema, fields(("x", "1"), ("y", "2")), MULTI) is BodyReason.NO_BRANCH
    both = fields(("kind", "a"), ("kind", "2"), ("x", "1"))
    assert recorded_of(schema, both, MULTI) is BodyReason.NO_BRANCH


def test_forms_under_a_range_of_media_types() -> None:
    assert recorded_of(
        an_object(w=MARKED, f=FILE), fields(("w", "1"), ("f", "s")), MULTI, declared="*/*"
    ) == {"w": "1"}


@pytest.mark.parametrize("name", ["_method", "%5fmethod"])
def test_a_field_that_overrides_the_method_is_seen_behind_a_coding(name: str) -> None:
    body = gzip.compress(f"w=s&{name}=DELETE".encode())
    assert recorded_of(an_object(w=MARKED), body, FORM, codings="gzip") is BodyReason.NO_OPERATION


def test_numbers_that_are_too_long_are_no_fields() -> None:
    body = fields(("n", "9" * 129), ("m", "9" * 128), ("w", "1"))
    found = recorded_of(an_object(n=NUMBER, m=INTEGER, w=MARKED), body, MULTI)
    assert found == {"m": int("9" * 128), "w": "1"}
