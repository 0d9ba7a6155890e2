from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enricher.ports import Found
from enricher.response import VALUE_CHARS_MAX, compile_response_reader
from schemas.errors import RetryableError

POINTERS = {
    "name": "/result/name",
    "account_id": "/result/account/id",
    "account_name": "/result/account/name",
}
read = compile_response_reader("the zone service", POINTERS)


def _response(**fields: Any) -> bytes:
    return json.dumps({"result": {"name": "n", "account": {"id": "a", "name": "b"}} | fields}).encode()


def test_fields_are_read_by_their_pointers() -> None:
    assert read(_response()) == Found(name="n", account_id="a", account_name="b")


@pytest.mark.parametrize("empty", [None, ""])
def test_null_and_the_empty_string_become_none(empty: str | None) -> None:
    assert read(_response(name=empty)) == Found(name=None, account_id="a", account_name="b")


def test_optional_fields_may_be_missing() -> None:
    assert read(_response(account={"id": "a"})) == Found(name="n", account_id="a")
    read_user = compile_response_reader("the user service", {"email": "/result/email"})
    assert read_user(b'{"result": {}}') == Found()
    with pytest.raises(RetryableError, match="unexpected shape"):
        read_user(b'{"success": false, "result": null}')


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not JSON",
        b"\xff",
        b"[" * 100_000,
        b"{}",
        b"null",
        b'{"result": null}',
        b'{"success": false, "result": {}}',
        _response(name=1),
        _response(name=["n"]),
        _response(name={"n": 1}),
        _response(name=True),
        _response(name="x" * 513),
        _response(name="a\0b"),
        _response(name="a\nb"),
        _response(name="n\n"),
        _response(name="a\x85b"),
        _response(name="a\u2028b"),
        _response(name="a\u2029b"),
        _response(name="\ud800"),
        _response(account=None),
        _response(account={"name": "b"}),
        _response(account=[]),
    ],
)
def test_a_response_of_another_shape_is_rejected(body: bytes) -> None:
    with pytest.raises(RetryableError, match="the zone service responded"):
        read(body)


def test_an_error_message_holds_no_part_of_the_response() -> None:
    with pytest.raises(RetryableError) as caught:
        read(_response(name="s3cret" * 100))
    assert "s3cret" not in str(caught.value)
    assert caught.value.__context__ is None


def test_pointers_reach_through_lists_and_escapes() -> None:
    reads = compile_response_reader("the account service", {"name": "/a~1b/0/m~0n"})
    assert reads(b'{"a/b": [{"m~n": "x"}]}') == Found(name="x")
    with pytest.raises(RetryableError):
        reads(b'{"a/b": []}')


def test_the_empty_pointer_selects_the_whole_response() -> None:
    assert compile_response_reader("the account service", {"name": ""})(b'"x"') == Found(name="x")


@given(st.text(max_size=520))
def test_a_name_is_accepted_exactly_if_it_is_short_and_printable(name: str) -> None:
    forbidden = any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 or char in "\u2028\u2029" for char in name)
    if forbidden or len(name) > VALUE_CHARS_MAX:
        with pytest.raises(RetryableError):
            read(_response(name=name))
    else:
        assert read(_response(name=name)).name == (name or None)
