"""An action stays in its account's list however the client writes the request."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from auditap_tap.encoding import altered_url, bounded_url
from schemas.capture import Capture, Headers
from schemas.event import AuditEvent, BodyReason, BodyReceipt, UnmatchedReason
from tests.spellings import ACCOUNT, OVERRIDES, PATH, TARGETS
from tests.unit.redactor.documents import a_document, an_operation, loaded
from tests.unit.redactor.pairs import EVENT_ID, a_pair, a_redactor, event_of, text_of
from tests.unit.redactor.schemas import MARKED, Node, an_object

QUERY = {"name": "q", "in": "query", "schema": MARKED}
ITEM = an_object(name=MARKED)


def operation(name: str, **keywords: Any) -> Node:
    return an_operation(ITEM, ITEM, parameters=[QUERY], **keywords) | {"operationId": name}


def document(**paths: Node) -> Node:
    return a_document(
        {"/accounts/{account_id}/items": {"post": operation("create", summary="Create")}} | paths
    )


def recorded(
    url: str, spec: Node | None = None, method: str = "POST", headers: Headers | None = None, **keywords: Any
) -> AuditEvent:
    body = keywords.pop("body", {"name": "s3cret"})
    pair = a_pair(
        method=method, url=url, body=body, answer={"name": "s3cret"}, request_headers=headers, **keywords
    )
    return event_of(a_redactor(document() if spec is None else spec), pair)


def assert_is_attributed(event: AuditEvent) -> None:
    assert event.account.id == ACCOUNT
    assert (event.resource.scope, event.resource.product, event.resource.type) == (
        "accounts",
        "items",
        "items",
    )
    assert (event.action.type, event.action.description) == ("create", "Create")
    assert event.raw.uri == PATH
    receipt = event.receipt
    assert (receipt.operation, receipt.altered) == ("create", True)
    assert receipt.request.reason is receipt.response.reason is BodyReason.NO_OPERATION
    assert text_of(event.resource.request) is text_of(event.resource.response) is None


def test_a_path_that_a_tap_has_cut_stays_in_its_accounts_list() -> None:
    """Taps end a path that is too long with the segment `.`: it matches no template as written."""
    item = {"post": operation("create", summary="Create")}
    spec = document(**{"/accounts/{account_id}/items/{item_id}/{part}": item})
    event = recorded(f"{PATH}/{'p' * 30_000}/.", spec)
    assert event.account.id == ACCOUNT
    assert event.receipt.altered
    assert text_of(event.resource.request) is text_of(event.resource.response) is None


@pytest.mark.parametrize("query", ["_method=PUT&q=" + "1" * 70_000, "q=" + "1" * 70_000 + "&_method=PUT"])
def test_a_query_that_a_tap_has_cut_opens_no_body(query: str) -> None:
    """What is cut off may ask for another method."""
    assert_is_attributed(recorded(bounded_url(f"{PATH}?{query}")))
    assert_is_attributed(recorded(altered_url(f"{PATH}#{query}")))


@pytest.mark.parametrize("url", [url for urls in TARGETS.values() for url in urls])
def test_a_path_in_another_spelling_stays_in_its_accounts_list(url: str) -> None:
    event = recorded(url)
    assert_is_attributed(event)
    assert event.receipt.unmatched in (UnmatchedReason.INVALID_PATH, UnmatchedReason.NO_PATH)


@pytest.mark.parametrize("url", [url for urls in TARGETS.values() for url in urls])
def test_nothing_of_the_query_is_recorded_with_it(url: str) -> None:
    assert recorded(url + "?q=s3cret") == recorded(url)


@pytest.mark.parametrize(("url", "headers"), OVERRIDES)
def test_a_request_for_another_method_stays_in_its_accounts_list(url: str, headers: Headers) -> None:
    event = recorded(url, headers=headers)
    assert_is_attributed(event)
    assert event.receipt.unmatched is UnmatchedReason.METHOD_OVERRIDE


FORM = "application/x-www-form-urlencoded"
PARTS = "multipart/form-data; boundary=x"
PART = 'Content-Disposition: form-data; name="_method"\r\n\r\n'


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        ("application/json", b'{"name": "a", "_method": 0}'),
        ("application/json", b'{"_method": "POST", "_method": "DELETE"}'),
        ("application/json", b'{"_method": "DELETE", "_method": "POST"}'),
        ("application/json", b'{"\\u005fmethod": "DELETE", "_method": "POST"}'),
        (FORM, b"_method=POST&_method=DELETE"),
        (PARTS, f"--x\r\n{PART}POST\r\n--x\r\n{PART}DELETE\r\n--x--".encode()),
        (PARTS, f"--x\r\n{PART}{' ' * 600}DELETE\r\n--x--".encode()),
    ],
)
def test_a_body_that_asks_for_another_method_stays_in_its_accounts_list(media_type: str, body: bytes) -> None:
    event = recorded(PATH, headers={"Content-Type": media_type}, body=body)
    assert_is_attributed(event)
    assert event.receipt.unmatched is UnmatchedReason.METHOD_OVERRIDE


def incomplete(media_type: str, headers: Headers | None = None, **message: Any) -> Capture:
    """A POST to `PATH` of whose body something is missing, and a response with a marked value."""
    pair = a_pair(url=PATH + "?q=1", answer={"name": "s3cret"})
    request = replace(pair.request, headers={"Content-Type": media_type} | (headers or {}), **message)
    return replace(pair, request=request)


@pytest.mark.parametrize(
    "pair",
    [
        incomplete("application/json", body='{"name": "a', truncated=True),
        incomplete("application/json", truncated=True),
        incomplete(FORM, body="name=a", truncated=True),
        incomplete(PARTS, body="--x", truncated=True),
        incomplete("application/json", {"Content-Encoding": "unknown"}, body='{"name": "a"}'),
        incomplete(FORM, {"Content-Encoding": "gzip"}, body_base64="AAAA"),
        incomplete("application/json", body_base64="no base64"),
    ],
)
def test_what_is_missing_of_a_body_may_ask_for_another_method(pair: Capture) -> None:
    """A form of more than a tap copies, with `_method=PUT` behind the cut, had its response recorded by the marks of POST."""
    event = event_of(a_redactor(document()), pair)
    assert (event.account.id, event.receipt.operation) == (ACCOUNT, "create")
    assert (event.receipt.unmatched, event.receipt.altered) == (None, False)
    assert event.raw.uri == PATH
    assert event.receipt.response.reason is BodyReason.NO_OPERATION
    assert text_of(event.resource.request) is text_of(event.resource.response) is None


@pytest.mark.parametrize(
    "pair",
    [
        incomplete("application/octet-stream", body="a", truncated=True),
        incomplete("application/x-ndjson", body="{}", truncated=True),
        incomplete("application/json", not_read=True),
    ],
)
def test_a_body_in_which_no_framework_looks_for_a_method_hides_none(pair: Capture) -> None:
    event = event_of(a_redactor(document()), pair)
    assert event.raw.uri == PATH + "?q=1"
    assert text_of(event.resource.response) == '{"name":"s3cret"}'


def test_a_put_whose_body_is_cut_off_is_a_put() -> None:
    spec = document(**{"/accounts/{account_id}/items": {"put": operation("replace")}})
    pair = incomplete("application/json", truncated=True)
    event = event_of(a_redactor(spec), replace(pair, request=replace(pair.request, method="PUT")))
    assert text_of(event.resource.response) == '{"name":"s3cret"}'


def test_no_response_stays_no_response() -> None:
    pair = incomplete(FORM, body="name=a", truncated=True)
    pair = replace(pair, response=replace(pair.response, body=None))
    assert event_of(a_redactor(document()), pair).receipt.response == BodyReceipt()


def test_an_excluded_operation_hides_no_other_one() -> None:
    """Whoever made the body longer than a tap copies, could delete unseen."""
    item = {"post": operation("create"), "delete": operation("delete")}
    spec = document(**{"/accounts/{account_id}/items": item})
    redactor = a_redactor(spec, excluded_operations=frozenset({"create"}))
    event = event_of(redactor, incomplete(FORM, body="name=a", truncated=True))
    assert (event.account.id, event.receipt.unmatched) == (ACCOUNT, UnmatchedReason.METHOD_OVERRIDE)
    assert redactor.redact(incomplete(FORM, body="name=a"), EVENT_ID) is None
    alone = a_redactor(document(), excluded_operations=frozenset({"create"}))
    assert alone.redact(incomplete(FORM, body="name=a", truncated=True), EVENT_ID) is None


@pytest.mark.parametrize("value", ["POST", "post", " Post\t", "", ["POST"], ["", "post"], list[str]()])
@pytest.mark.parametrize("name", ["x-http-method-override", "X_HTTP_METHOD"])
def test_an_override_that_repeats_the_method_is_none(name: str, value: str | list[str]) -> None:
    event = recorded(PATH + "?q=1", headers={name: value})
    assert (event.receipt.unmatched, event.receipt.altered) == (None, False)
    assert event.raw.uri == PATH + "?q=1"
    assert text_of(event.resource.request) == '{"name":"s3cret"}'


@pytest.mark.parametrize(
    ("url", "media_type", "body"),
    [
        (PATH + "?_method=post", "application/json", b'{"name": "a"}'),
        (PATH + "?_method=&_method=%50OST", "application/json", b'{"name": "a"}'),
        (PATH, "application/json", b'{"_method": "POST", "name": "a"}'),
        (PATH, "application/json", b'{"name": "a", "X-HTTP-Method": ""}'),
        (PATH, FORM, b"name=a&_method=POST"),
        (PATH, PARTS, f"--x\r\n{PART}POST\r\n--x--".encode()),
        (PATH, PARTS, f"--x\r\n{PART}\r\n--x--".encode()),
    ],
)
def test_a_field_that_repeats_the_method_is_none(url: str, media_type: str, body: bytes) -> None:
    event = recorded(url, headers={"Content-Type": media_type}, body=body)
    assert (event.receipt.unmatched, event.receipt.operation) == (None, "create")


def test_an_override_is_attributed_where_the_request_lines_method_has_no_operation() -> None:
    item = {"put": operation("replace"), "delete": operation("delete", summary="Delete")}
    spec = document(**{"/accounts/{account_id}/items/{item_id}": item})
    event = recorded("/accounts/accE/items/7", spec, headers={"x-http-method-override": "DELETE"})
    assert (event.account.id, event.resource.id, event.resource.type) == (ACCOUNT, "7", "items")
    # The value of the override decides nothing, so what the two operations differ in stays open.
    assert (event.action.type, event.action.description) == ("create", None)
    assert (event.receipt.operation, event.receipt.altered) == ("replace|delete", True)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PATCH", "TRACE", "PROPFIND", "POST ", "JEFF", "x" * 64])
def test_a_method_that_the_path_does_not_have_stays_in_its_accounts_list(method: str) -> None:
    item = {"put": operation("replace"), "delete": operation("delete")}
    spec = document(**{"/accounts/{account_id}/items/{item_id}": item})
    event = recorded("/accounts/accE/items/7?q=s3cret", spec, method=method)
    assert (event.account.id, event.resource.id, event.resource.type) == (ACCOUNT, "7", "items")
    assert event.raw.uri == "/accounts/accE/items/7"
    receipt = event.receipt
    # The path is not altered: most such requests are mistakes, or checks whether something is there.
    assert (receipt.unmatched, receipt.altered) == (UnmatchedReason.NO_METHOD, False)
    assert receipt.operation == "replace|delete"
    assert text_of(event.resource.request) is text_of(event.resource.response) is None
    assert recorded("//accounts/accE/items/7", spec, method=method).receipt.altered


def test_head_is_attributed_as_get() -> None:
    hidden = operation("delete") | {"x-sensitive": True}
    spec = document(**{"/accounts/{account_id}/items/{item_id}": {"get": operation("get"), "delete": hidden}})
    event = recorded("/accounts/accE/items/7", spec, method="HEAD")
    assert (event.account.id, event.receipt.operation, event.action.type) == (ACCOUNT, "get", "view")
    # The service may have run either of them, and one denies its path.
    event = recorded("/accounts/accE/items/7", spec, method="JEFF")
    assert (event.account.id, event.receipt.operation) == (None, "get|delete")


def test_what_browsers_ask_ahead_of_an_action_is_nobodys() -> None:
    event = recorded(PATH, method="OPTIONS")
    assert (event.account.id, event.receipt.operation) == (None, None)
    assert event.receipt.unmatched is UnmatchedReason.NO_METHOD


def test_a_method_in_another_case_is_the_method() -> None:
    event = recorded(PATH, method="post")
    assert (event.account.id, event.receipt.altered, event.raw.method) == (ACCOUNT, True, "OTHER")
    assert event.receipt.unmatched is UnmatchedReason.NO_METHOD


@pytest.mark.parametrize(
    "url",
    ["*", "/", "//", "/..", "/accounts/accE", "/accounts//items", "/accounts/accE/items/7", "/accounts/accE/item",
     "/accounts/accE/items%25252F", "/accounts/accE/x/items", "/items/accE/accounts", ";", "%00", "/\ud800", "?", "#"],
)  # fmt: skip
def test_what_no_reading_matches_is_nobodys(url: str) -> None:
    event = recorded(url)
    assert (event.account.id, event.receipt.operation, event.receipt.altered) == (None, None, False)
    assert event.receipt.unmatched is not None


@pytest.mark.parametrize(
    "url", ["/accounts/accE/items", "/accounts/accE/items?q=1", "/accounts/accE/%69tems"]
)
def test_what_matches_as_written_is_not_altered(url: str) -> None:
    assert recorded(url).receipt.altered is False
    assert b"altered" not in json.dumps(recorded(url).receipt.operation).encode()


def test_an_encoded_slash_may_be_part_of_a_value() -> None:
    spec = document(**{"/accounts/{account_id}/files/{file_id}": {"post": operation("file")}})
    event = recorded("/accounts/accE/files/a%2Fb;c", spec)
    assert (event.account.id, event.resource.id, event.receipt.altered) == (ACCOUNT, "a/b;c", True)
    assert event.raw.uri == "/accounts/accE/files/a%2Fb%3Bc"


@pytest.mark.parametrize("written", ["\ud800", "%ff", "%ed%a0%80"])
def test_a_value_that_is_no_text_is_recorded_as_far_as_it_can_be(written: str) -> None:
    spec = document(**{"/accounts/{account_id}/files/{file_id}": {"post": operation("file")}})
    event = recorded(f"/accounts/accE/files/x{written}", spec)
    assert (event.account.id, event.receipt.altered) == (ACCOUNT, True)
    assert event.resource.id in ("x?", "x\ufffd", "x\ufffd\ufffd\ufffd")


def test_a_value_that_the_rules_do_not_keep_stays_unrecorded() -> None:
    spec = document(**{"/accounts/{account_id}/values/{key_name}": {"post": operation("value")}})
    event = recorded("//accounts/accE/VALUES/s3cret", spec)
    assert (event.account.id, event.raw.uri) == (ACCOUNT, "/accounts/accE/values/{key_name}")


def test_a_denied_path_parameter_stays_denied() -> None:
    denied = {
        "name": "account_id",
        "in": "path",
        "required": True,
        "x-sensitive": True,
        "schema": {"type": "string"},
    }
    spec = a_document(
        {"/accounts/{account_id}/items": {"post": operation("create") | {"parameters": [denied]}}}
    )
    event = recorded("//accounts/s3cret/items", spec)
    assert (event.account.id, event.raw.uri) == (None, "/accounts/{account_id}/items")


def test_the_account_that_the_service_names_goes_before_a_reading_of_the_path() -> None:
    event = recorded("//accounts/accE/items", response_headers={"x-account-id": "accF"})
    assert event.account.id == "accF"
    assert recorded(PATH, response_headers={"x-account-id": "accF"}).account.id == ACCOUNT


class TestOperationsThatAReadingCannotTellApart:
    def test_what_differs_in_case_alone_keeps_what_both_keep(self) -> None:
        spec = document(**{
            "/accounts/{account_id}/rules": {"post": operation("lower", summary="Same")},
            "/accounts/{account_id}/Rules": {"post": operation("upper", summary="Same")},
        })  # fmt: skip
        event = recorded("/accounts/accE/RULES", spec)
        assert (event.account.id, event.action.description) == (ACCOUNT, "Same")
        assert (event.resource.type, event.receipt.operation) == (None, "lower|upper")
        # In its own case, each is meant alone.
        assert recorded("//accounts/accE/rules", spec).receipt.operation == "lower"

    def test_twins_keep_the_values_that_both_keep(self) -> None:
        spec = a_document({
            "/accounts/{account_id}/items/{item_id}": {"post": operation("one")},
            "/accounts/{account_id}/items/{secret}": {"post": operation("two")},
        })  # fmt: skip
        event = recorded("//accounts/accE/items/s3cret", spec)
        assert (event.account.id, event.resource.id) == (ACCOUNT, None)
        assert event.raw.uri == "/accounts/accE/items/{secret}"

    def test_a_slash_at_a_templates_end_makes_a_twin(self) -> None:
        spec = a_document({
            "/accounts/{account_id}/items": {"post": operation("bare")},
            "/accounts/{account_id}/items/": {"post": operation("slash")},
        })  # fmt: skip
        event = recorded("//accounts/accE/items", spec)
        assert (event.account.id, event.receipt.operation) == (ACCOUNT, "bare|slash")
        alone = a_document({"/accounts/{account_id}/items/": {"post": operation("slash")}})
        assert recorded("/accounts/accE/items", alone).raw.uri == "/accounts/accE/items/"

    def test_the_more_literal_one_wins(self) -> None:
        spec = document(**{"/accounts/{account_id}/{kind_id}": {"post": operation("kind")}})
        assert recorded("//accounts/accE/items", spec).receipt.operation == "create"
        assert recorded("//accounts/accE/others", spec).receipt.operation == "kind"


def test_a_base_path_is_read_leniently_too() -> None:
    spec = document() | {"servers": [{"url": "https://api.example.com/client/v4"}]}
    for url in ("/Client/V4/accounts/accE/items", "/client//v4/accounts/accE/items", "/client%2Fv4" + PATH):
        assert_is_attributed(recorded(url, spec))


def test_a_partly_literal_segment_is_read_in_any_case() -> None:
    spec = document(**{"/accounts/{account_id}/scans/{scan_id}.png": {"post": operation("scan")}})
    event = recorded("/accounts/accE/SCANS/7.PNG", spec)
    assert (event.account.id, event.receipt.operation) == (ACCOUNT, "scan")


class TestHosts:
    def spec(self, host: str, name: str) -> Any:
        paths = {"/accounts/{account_id}/items": {"post": operation(name)}}
        return loaded(a_document(paths), hosts=(host,))

    def recorded(self, url: str, host: str | list[str]) -> AuditEvent:
        one, two = self.spec("one.example.com", "one"), self.spec("two.example.com", "two")
        pair = a_pair(url=url, body={"name": "s3cret"}, request_headers={"host": host})
        return event_of(a_redactor(one, two), pair)

    def test_the_host_chooses_the_document(self) -> None:
        assert self.recorded("/" + PATH, "two.example.com").receipt.operation == "two"

    def test_a_foreign_host_in_an_absolute_target_hides_nothing(self) -> None:
        event = self.recorded("http://evil.example" + PATH, "two.example.com")
        assert (event.account.id, event.receipt.operation, event.receipt.altered) == (ACCOUNT, "two", True)
        assert event.receipt.unmatched is UnmatchedReason.NO_DOCUMENT

    @pytest.mark.parametrize(
        "host", [["one.example.com", "one.example.com"], "one.example.com, x", "a@b", "é", ""]
    )
    @pytest.mark.parametrize("origin", ["", "http://"])
    def test_a_host_that_cannot_be_read_hides_nothing(self, host: str | list[str], origin: str) -> None:
        event = self.recorded(origin + PATH, host)
        assert (event.account.id, event.receipt.operation) == (ACCOUNT, "one|two")
        assert (event.receipt.unmatched, event.receipt.altered) == (UnmatchedReason.NO_DOCUMENT, True)
        assert text_of(event.resource.request) is None

    def test_a_request_that_names_no_host_hides_nothing(self) -> None:
        one, two = self.spec("one.example.com", "one"), self.spec("two.example.com", "two")
        event = event_of(a_redactor(one, two), a_pair(url=PATH))
        assert (event.account.id, event.receipt.operation, event.receipt.altered) == (
            ACCOUNT,
            "one|two",
            True,
        )

    def test_a_host_that_no_document_serves_is_nobodys(self) -> None:
        assert self.recorded(PATH, "evil.example").account.id is None


def test_bodies_headers_and_query_of_an_altered_request_change_no_byte() -> None:
    redactor = a_redactor(document())
    one = a_pair(url="//accounts/accE/items?q=1", body={"name": "a"}, answer={"name": "b"})
    two = a_pair(
        url="//accounts/accE/items?q=2&x=y",
        body={"name": ["s3cret"], "more": 1},
        answer={"else": None},
        request_headers={"x-secret": "s3cret"},
    )
    assert redactor.redact(one, "0" * 32) == redactor.redact(two, "0" * 32)
