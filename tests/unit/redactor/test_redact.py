from __future__ import annotations

import gc
import json
import logging
from typing import Any, NoReturn

import pytest

from redactor.compile.plan import ObjectPlan
from redactor.config import Limits, RedactionConfig
from redactor.openapi.document import OpenApiDocument
from redactor.pipeline.redactor import Redactor, redact_lines
from redactor.pipeline.typed_bodies import TypedBody
from schemas.capture import Capture, TapPosition, decode_capture
from schemas.contracts import validator
from schemas.errors import RefusalReason, RefusedCapture
from schemas.event import Tap, decode_event
from schemas.identity import id_ms, parse_id
from tests.compiled import sources_only
from tests.unit.redactor.documents import a_document, an_operation, loaded
from tests.unit.redactor.pairs import EVENT_ID, a_pair, a_redactor, event_of, text_of
from tests.unit.redactor.schemas import MARKED, TEXT, an_object

ACCOUNT, POLICY = "1f" * 16, "8a" * 16
GOLDEN_PATH = f"/accounts/{ACCOUNT}/alerting/v3/policies/{POLICY}"


@pytest.fixture(scope="module")
def golden_document() -> OpenApiDocument:
    """The update of a notification policy, whose description and mechanisms are not marked."""
    lists = {"type": "array", "items": MARKED}
    request = an_object(
        alert_type=MARKED,
        description=TEXT,
        enabled={"type": "boolean", "x-auditable": True},
        filters=an_object(services=lists, zones=lists),
        mechanisms=an_object(email={"type": "array", "items": an_object(id=TEXT)}),
        name=MARKED,
    )
    response = an_object(result=an_object(id=MARKED), success={"type": "boolean"})
    operation = an_operation(request, response, summary="Update a Notification policy")
    document = a_document(
        {"/accounts/{account_id}/alerting/v3/policies/{policy_id}": {"put": operation}},
        servers=[{"url": "https://api.example.com/client/v4"}],
    )
    return loaded(document, envelope="result")


@pytest.fixture(scope="module")
def golden_event(golden_document: OpenApiDocument) -> dict[str, Any]:
    pair = a_pair(
        method="PUT",
        url=f"https://api.example.com/client/v4{GOLDEN_PATH}?dry=1",
        body={
            "alert_type": "universal_ssl_event_type",
            "enabled": True,
            "filters": {"services": ["a", "b"], "zones": ["z"]},
            "name": "SSL",
            "description": "s3cret",
            "mechanisms": {"email": [{"id": "s3cret"}]},
        },
        answer={"result": {"id": POLICY}, "success": True, "errors": [], "messages": []},
        request_headers={"user-agent": "curl/8", "cf-ray": "9c-FRA", "authorization": "Bearer s3cret"},
        response_headers={
            "x-actor-id": "u1",
            "x-actor-email": "who@example.com",
            "x-actor-type": "user",
            "x-actor-context": "dash",
        },
        client_ip="203.0.113.9",
        tap=TapPosition("gw-1", 3, 4),
    )
    value = a_redactor(golden_document).redact(pair, EVENT_ID)
    assert value is not None
    event: dict[str, Any] = json.loads(value)
    return event


def test_the_golden_event_keeps_the_contract_and_has_no_other_parts(golden_event: dict[str, Any]) -> None:
    validator("audit_event").validate(golden_event)
    assert set(golden_event) == {
        *("id", "action", "account", "actor", "raw", "resource", "zone", "receipt", "tap")
    }
    assert golden_event["id"] == EVENT_ID


def test_the_golden_event_says_who_did_it_from_where(golden_event: dict[str, Any]) -> None:
    assert golden_event["actor"] == {
        "context": "dash",
        "email": "who@example.com",
        "id": "u1",
        "ip_address": "203.0.113.9",
        "type": "user",
    }
    assert golden_event["tap"] == {"id": "gw-1", "epoch": 3, "seq": 4}


def test_the_golden_event_says_what_was_done_to_what(golden_event: dict[str, Any]) -> None:
    assert golden_event["action"] == {
        "description": "Update a Notification policy",
        "result": "success",
        "time": "2026-01-23T18:25:14.749Z",
        "type": "update",
    }
    assert golden_event["account"] == {"id": ACCOUNT}
    assert golden_event["zone"] == {}
    assert golden_event["raw"] == {
        "cf_ray_id": "9c-FRA",
        "method": "PUT",
        "status_code": 200,
        "uri": GOLDEN_PATH,
        "user_agent": "curl/8",
    }


def test_the_golden_event_keeps_the_marked_content(
    golden_event: dict[str, Any], golden_document: OpenApiDocument
) -> None:
    assert golden_event["resource"] == {
        "id": POLICY,
        "product": "alerting",
        "request": {
            "alert_type": "universal_ssl_event_type",
            "enabled": True,
            "filters": {"services": ["a", "b"], "zones": ["z"]},
            "name": "SSL",
        },
        "response": {"id": POLICY},
        "scope": "accounts",
        "type": "policies",
    }
    assert golden_event["receipt"] == {
        "document": golden_document.digest,
        "operation": "op",
        "request": {"kept": 6},
        "response": {"kept": 1},
    }


def test_the_same_pair_gives_the_same_bytes_from_a_fresh_redactor() -> None:
    document = a_document({"/things": {"post": an_operation(an_object(a=MARKED))}})
    pair = a_pair(body={"a": "1"})
    assert a_redactor(document).redact(pair, EVENT_ID) == a_redactor(document).redact(pair, EVENT_ID)


class CannotKeepError(Exception):
    """An error that no other test of this process raises, nor keeps."""


@sources_only
class TestFailure:
    """Something inside goes wrong, with the body in its hands."""

    @pytest.fixture
    def failing(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        def fail(_: Any, value: Any) -> NoReturn:
            raise CannotKeepError(f"cannot keep {value}")

        monkeypatch.setattr(ObjectPlan, "keep", fail)
        monkeypatch.setattr(TypedBody, "read", fail)
        return []

    def test_nothing_is_lost_and_nothing_leaks(
        self, failing: list[str], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
    ) -> None:
        caplog.set_level(logging.DEBUG)
        document = loaded(a_document({"/things/{id}": {"post": an_operation(an_object(a=MARKED))}}))
        redactor = Redactor([document], RedactionConfig(), on_failure=lambda: failing.append("failed"))
        pair = a_pair(url="/things/7?q=s3cret", body={"a": "s3cret"}, status=404, tap=TapPosition("t", 1, 2))
        value = redactor.redact(pair, EVENT_ID)
        assert value is not None
        assert b"s3cret" not in value
        event = decode_event(value)
        assert (event.raw.method, event.raw.status_code, event.action.result) == ("POST", 404, "failure")
        assert (event.action.type, event.receipt.operation, event.tap) == ("create", None, Tap("t", 1, 2))
        assert failing == ["failed"]
        assert "s3cret" not in caplog.text + "".join(capsys.readouterr())

    def test_the_error_is_not_kept_alive(self, failing: list[str]) -> None:
        redactor = Redactor(
            [loaded(a_document({"/things": {"post": an_operation(an_object(a=MARKED))}}))], RedactionConfig()
        )
        redactor.redact(a_pair(body={"a": "s3cret"}), EVENT_ID)
        gc.collect()
        assert not [each for each in gc.get_objects() if type(each) is CannotKeepError]


HOSTILE: list[Capture] = [
    a_pair(method="\u0000", url="\ud800", body={}),
    a_pair(url="/things?" + "&" * 60_000),
    a_pair(url="/things?q=" + "%" * 60_000),
    a_pair(url="/" * 60_000),
    a_pair(url="/things/" + "a/" * 30_000),
    a_pair(url="https://" + "@" * 60_000 + "/things"),
    a_pair(request_headers={"content-type": "\u0000" * 1000, "\udfff": ["\ud800"]}),
    a_pair(response_headers={"x-actor-email": "@" * 10_000, "x-actor-id": "\ud800"}),
    a_pair(body=b"[" * 100_000),
    a_pair(status=999, client_ip="\ud800"),
]


@pytest.mark.parametrize("pair", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_pairs_are_recorded_like_any_other(pair: Capture) -> None:
    query = [{"name": "q", "in": "query", "schema": MARKED}]
    redactor = a_redactor(
        a_document({"/things": {"post": an_operation(an_object(a=MARKED), parameters=query)}})
    )
    event = event_of(redactor, pair)
    assert event.id == EVENT_ID


def test_nothing_of_a_capture_stays_in_the_redactor() -> None:
    redactor = a_redactor(a_document({"/things/{id}": {"post": an_operation(an_object(a=MARKED))}}))
    event_of(redactor, a_pair(url="/things/1", body={"a": "1"}))
    held = len(gc.get_objects())
    for number in range(200):
        event_of(
            redactor, a_pair(url=f"/things/n{number}?q{number}", body={"a": f"v{number}", f"k{number}": 1})
        )
    gc.collect()
    assert len(gc.get_objects()) - held < 100


class TestLines:
    document = a_document({"/things": {"post": an_operation(an_object(a=MARKED))}})

    def line(self, **keywords: Any) -> bytes:
        pair = {"request": {"method": "POST", "url": "/things"}, "response": {"status": 200}}
        return json.dumps(pair | keywords).encode()

    def run(self, *lines: bytes, **settings: Any) -> tuple[list[bytes], list[tuple[int, RefusedCapture]]]:
        refused: list[tuple[int, RefusedCapture]] = []
        redactor = a_redactor(self.document, **settings)
        events = list(
            redact_lines(redactor, lines, lambda *refusal: refused.append(refusal), now_ms=lambda: 1000)
        )
        return events, refused

    def test_one_event_a_line_in_order_and_refusals_by_index(self) -> None:
        ids = [EVENT_ID[:-1] + digit for digit in "abc"]
        lines = [
            self.line(id=ids[0]),
            b"no s3cret json",
            self.line(id=ids[1]),
            b'{"request": 7}',
            self.line(id=ids[2]),
        ]
        events, refused = self.run(*lines)
        assert [decode_event(event).id for event in events] == ids
        assert [(index, error.reason) for index, error in refused] == [
            (1, RefusalReason.MALFORMED),
            (3, RefusalReason.INVALID),
        ]
        assert all("s3cret" not in str(error) and error.__context__ is None for _, error in refused)

    def test_a_line_above_the_limit_is_refused(self) -> None:
        _, refused = self.run(self.line(), limits=Limits(capture_bytes_max=10))
        assert [error.reason for _, error in refused] == [RefusalReason.TOO_LARGE]

    def test_ids_are_derived_where_the_tap_counts(self) -> None:
        counted = self.line(captured_at="2026-01-23T18:25:14.749Z", tap={"id": "t", "epoch": 1, "seq": 2})
        events, _ = self.run(counted, counted)
        assert events[0] == events[1]
        assert decode_event(events[0]).action.time == "2026-01-23T18:25:14.749Z"

    @pytest.mark.parametrize(
        ("keywords", "at_ms"),
        [
            ({}, 1000),
            ({"captured_at": "1970-01-01T00:00:05Z"}, 5000),
            ({"captured_at": "1950-01-01T00:00:00Z"}, 0),
        ],
    )
    def test_else_they_are_random_at_the_best_known_time(self, keywords: Any, at_ms: int) -> None:
        (event,), _ = self.run(self.line(**keywords))
        found = decode_event(event).id
        assert parse_id(found) == found
        assert id_ms(found) == at_ms

    @pytest.mark.parametrize(
        ("keywords", "path"),
        [({"captured_at": "no time"}, "captured_at: format"), ({"id": "x" * 32}, "id: format")],
    )
    def test_a_line_that_the_collector_would_refuse_is_refused(self, keywords: Any, path: str) -> None:
        events, refused = self.run(self.line(**keywords))
        assert events == []
        assert [(error.reason, error.path) for _, error in refused] == [(RefusalReason.INVALID, path)]

    def test_an_excluded_operation_yields_nothing(self) -> None:
        assert self.run(self.line(), excluded_operations=frozenset({"op"})) == ([], [])


def test_bodies_are_spliced_as_json_text() -> None:
    document = a_document({"/things": {"post": an_operation({"type": "number", "x-auditable": True})}})
    event = event_of(a_redactor(document), a_pair(body=b" 1.10 "))
    assert text_of(event.resource.request) == "1.10"
    line = json.dumps(
        {"request": {"method": "POST", "url": "/things", "body": "-0"}, "response": {"status": 200}}
    )
    assert text_of(event_of(a_redactor(document), decode_capture(line.encode())).resource.request) == "-0"
