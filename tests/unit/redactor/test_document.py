from __future__ import annotations

import json
from pathlib import Path

import pytest

from redactor.config import DocumentConfig, HeaderNames, Limits, RedactionConfig
from redactor.openapi.document import UNTRUSTED, load_document, parse_document
from redactor.pipeline.redactor import Redactor
from schemas.errors import StartupError
from tests.unit.redactor.documents import a_document, an_operation, loaded
from tests.unit.redactor.pairs import a_pair, a_redactor, event_of, text_of
from tests.unit.redactor.schemas import MARKED, Node, an_object

YAML = """
openapi: 3.1.0
info: {title: T, version: '1'}
paths:
  /things:
    post:
      operationId: op
      requestBody:
        content:
          application/json:
            schema:
              type: object
              properties:
                on: &marked {type: string, x-auditable: true}
                no: *marked
                yes: {type: string, x-auditable: yes}
                2024-01-01: *marked
                1: *marked
                sensitive: {type: string, x-auditable: true, x-sensitive: on}
                merged:
                  <<: *marked
                twice: {type: string, x-auditable: false, x-auditable: true}
      responses:
        200: {description: d, content: {application/json: {schema: *marked}}}
        4xx: {description: d}
"""


def from_yaml(text: str) -> Redactor:
    return a_redactor(parse_document(DocumentConfig(Path("d.yaml")), text.encode()))


def test_yaml_is_read_by_its_core_schema() -> None:
    names = ["on", "no", "yes", "2024-01-01", "1", "sensitive", "merged", "twice"]
    event = event_of(from_yaml(YAML), a_pair(body=dict.fromkeys(names, "v"), answer="a"))
    recorded = text_of(event.resource.request)
    assert recorded is not None
    assert json.loads(recorded) == dict.fromkeys(["on", "no", "2024-01-01", "1"], "v")
    assert text_of(event.resource.response) == '"a"'


def test_aliases_neither_multiply_nor_hang() -> None:
    bomb = YAML + "x-bomb:\n  a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 40))
    assert event_of(from_yaml(bomb), a_pair(body={"on": "v"})).receipt.request.kept == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("d.json", b""),
        ("d.json", b"[]"),
        ("d.json", b'{"openapi": "3.0.0"'),
        ("d.json", b'{"openapi": "2.0"}'),
        ("d.json", b'{"swagger": "2.0"}'),
        ("d.json", b'{"openapi": "3.0.0", "x": ' + b"[" * 100_000),
        ("d.json", b"\xff"),
        ("d.yaml", b""),
        ("d.yaml", b"a: [b"),
        ("d.yaml", b"a: " + b"[" * 20_000),
        ("d.yaml", b"!!python/object/apply:os.system ['true']"),
        ("d.yaml", b"- openapi"),
        ("d.yaml", b"openapi: 3.0.0\npaths: &self {a: *self}"),
    ],
)
def test_an_unusable_document_ends_the_start_with_one_sentence(
    tmp_path: Path, name: str, text: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(text)
    with pytest.raises(StartupError) as raised:
        Redactor.from_config(RedactionConfig(documents=(DocumentConfig(path),)))
    assert str(raised.value).endswith(".")
    assert "\n" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


def test_a_missing_document_ends_the_start_with_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="cannot be read: No such file"):
        load_document(DocumentConfig(tmp_path / "missing.json"))


@pytest.mark.parametrize(
    "paths",
    [
        None,
        [],
        {"/things": None},
        {"/things": []},
        {"/things": {"post": None, "get": []}},
        {"/things": {"post": {}}},
        {"/things": {"post": {"operationId": [], "responses": [], "requestBody": [], "parameters": {}}}},
        {"/things": {"post": {"requestBody": {"content": []}, "responses": {"200": None}}}},
        {"/things": {"post": {"requestBody": {"content": {"application/json": None}}}}},
        {"/things": {"post": {"requestBody": {"content": {"application/json": {"schema": []}}}}}},
        {
            "/things": {
                "post": {"parameters": [None, 7, {"in": []}, {"name": 1, "in": "query"}, {"$ref": "#/x"}]}
            }
        },
        {"/things": {"post": {"servers": [None, {"url": 7}, {"url": "{"}]}}},
        {"/things": {"$ref": "#/paths/~1things"}},
        {
            "things": {"post": {}},
            "/a{b": {"post": {}},
            "/a//b": {"post": {}},
            "/{": {"post": {}},
            "/a;b": {"post": {}},
        },
    ],
)
def test_what_is_broken_in_a_document_denies_and_stops_nothing(paths: Node) -> None:
    redactor = a_redactor(a_document(paths), a_document({"/other": {"post": an_operation(MARKED)}}))
    event = event_of(redactor, a_pair(url="/things?q=s", body={"a": "s"}, answer={"a": "s"}))
    assert text_of(event.resource.request) is None
    assert text_of(event.resource.response) is None
    assert event_of(redactor, a_pair(url="/other", body="1")).receipt.request.kept == 1


@pytest.mark.parametrize(
    "schema",
    [
        {"type": {}},
        {"type": [7, None]},
        {"type": "object", "properties": 7},
        {"type": "object", "patternProperties": {"a": 7}},
        {"type": "object", "additionalProperties": []},
        {"type": "array", "items": [MARKED]},
        {"type": "array", "prefixItems": 7, "items": MARKED},
        {"type": "object", "dependentSchemas": 7, "properties": {"a": MARKED}},
        {"type": "string", "enum": 7},
        {"discriminator": {"mapping": {"a": 7, "b": "#/x"}}},
        {"properties": {"a": {"allOf": [None]}}},
    ],
)
def test_what_is_broken_in_a_schema_denies_it(schema: Node) -> None:
    for version in ("3.0.3", "3.1.0"):
        document = a_document({"/things": {"post": an_operation(schema | {"x-auditable": True})}}, version)
        for body in ({"a": "s"}, ["s"], "s"):
            event = event_of(a_redactor(document), a_pair(body=body, status=400))
            assert text_of(event.resource.request) in (None, "{}", "[]")


def test_a_replacement_character_stands_for_a_lone_surrogate() -> None:
    text = rb"""{"openapi": "3.1.0", "info": {"a": "\ud83d\ude00", "b": "\\ud800", "c": "\ude00\ud83d\ude00\\\uD83D"},
        "paths": {}, "x\ud800": 1, "x\ufffd": 2}"""
    root = parse_document(DocumentConfig(Path("document.json")), text).root
    assert root["info"] == {"a": "\U0001f600", "b": "\\ud800", "c": "\ufffd\U0001f600\\\ufffd"}
    assert root["x\ufffd"] == 2
    assert UNTRUSTED in root, "two names became one"


def test_references_to_other_files_are_findings_of_their_own() -> None:
    schema = an_object(a={"$ref": "schemas.yaml#/Thing"}, b=MARKED)
    paths = {"/things": {"post": an_operation(schema)}, "/others": {"$ref": "./paths/others.yaml"}}
    document = loaded(a_document(paths, "3.1.0"))
    event = event_of(a_redactor(document), a_pair(body={"a": {"c": 1}, "b": "x"}))
    assert text_of(event.resource.request) == '{"b":"x"}'
    codes = {pointer.rpartition("/")[2]: code for pointer, code in document.findings}
    assert codes == {"a": "external_reference", "~1others": "external_reference"}


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("d.yaml", "openapi: 3.1.0\npaths:\n  /a: [\nCANARY: }", "line 4, is not well-formed YAML"),
        ("d.json", '{"openapi": "3.1.0",\n "CANARY" 1}', "line 2, is not well-formed JSON"),
        ("d.json", "[" * 100_000, "is nested too deep"),
    ],
)
def test_a_document_that_is_not_well_formed_is_refused_with_its_line(
    tmp_path: Path, name: str, text: str, place: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(StartupError) as refused:
        load_document(DocumentConfig(tmp_path / name))
    assert place in str(refused.value)
    assert "CANARY" not in str(refused.value)
    assert refused.value.__context__ is None


def test_findings_say_where_and_what() -> None:
    schema = an_object(
        a={"$ref": "#/components/schemas/Missing"}, b={"type": "object", "patternProperties": {"(": MARKED}}
    )
    document = loaded(a_document({"/things": {"post": an_operation(schema)}}, "3.1.0"))
    event_of(a_redactor(document), a_pair(body={}))
    at = "/paths/~1things/post/requestBody/content/application~1json/schema/properties"
    assert set(document.findings) == {
        (f"{at}/a", "broken_reference"),
        (f"{at}/b/patternProperties/(", "unusable_pattern"),
    }


@pytest.mark.parametrize(
    "build",
    [
        lambda: Limits(body_bytes_max=0),
        lambda: Limits(depth_max=10_000),
        lambda: HeaderNames(actor_id="X-Actor"),
        lambda: HeaderNames(request_ids=("CF-Ray",)),
        lambda: HeaderNames(actor_id="x-actor-id:"),
        lambda: HeaderNames(account_id="x account"),
        lambda: HeaderNames(request_ids=("x-request-id", "x-r\xe9quest")),
    ],
)
def test_wrong_settings_are_refused_with_one_sentence(build: object) -> None:
    with pytest.raises(StartupError):
        build()  # type: ignore[operator]
