from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enricher.answer import compile_answer
from enricher.ports import Found
from schemas.errors import RetryableError

POINTERS = {
    "name": "/result/name",
    "account_id": "/result/account/id",
    "account_name": "/result/account/name",
}
read = compile_answer("the zone service", POINTERS, 20)


def _answer(**fields: Any) -> bytes:
    return json.dumps({"result": {"name": "n", "account": {"id": "a", "name": "b"}} | fields}).encode()


def test_fields_are_read_by_their_pointers() -> None:
    assert read(_answer()) == Found(name="n", account_id="a", account_name="b")


@pytest.mark.parametrize("empty", [None, ""])
def test_null_and_the_empty_text_are_none(empty: str | None) -> None:
    assert read(_answer(name=empty)) == Found(name=None, account_id="a", account_name="b")


def test_what_may_be_left_out_is_none() -> None:
    assert read(_answer(account={"id": "a"})) == Found(name="n", account_id="a")
    read_user = compile_answer("the user service", {"email": "/result/email"}, 20)
    assert read_user(b'{"result": {}}') == Found()
    with pytest.raises(RetryableError, match="another shape"):
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
        _answer(name=1),
        _answer(name=["n"]),
        _answer(name={"n": 1}),
        _answer(name=True),
        _answer(name="x" * 21),
        _answer(name="a\0b"),
        _answer(name="a\nb"),
        _answer(name="n\n"),
        _answer(name="a\x85b"),
        _answer(name="a\u2028b"),
        _answer(name="a\u2029b"),
        _answer(name="\ud800"),
        _answer(account=None),
        _answer(account={"name": "b"}),
        _answer(account=[]),
    ],
)
def test_an_answer_of_another_shape_is_not_believed(body: bytes) -> None:
    with pytest.raises(RetryableError, match="the zone service answered"):
        read(body)


def test_a_refusal_repeats_nothing_of_the_answer() -> None:
    with pytest.raises(RetryableError) as caught:
        read(_answer(name="s3cret" * 10))
    assert "s3cret" not in str(caught.value)
    assert caught.value.__context__ is None


def test_pointers_reach_through_lists_and_escapes() -> None:
    reads = compile_answer("the account service", {"name": "/a~1b/0/m~0n"}, 20)
    assert reads(b'{"a/b": [{"m~n": "x"}]}') == Found(name="x")
    with pytest.raises(RetryableError):
        reads(b'{"a/b": []}')


def test_the_whole_answer_may_be_the_name() -> None:
    assert compile_answer("the account service", {"name": ""}, 20)(b'"x"') == Found(name="x")


@given(st.text(max_size=25))
def test_a_name_is_believed_exactly_when_it_is_short_and_printable(name: str) -> None:
    forbidden = any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 or char in "\u2028\u2029" for char in name)
    if forbidden or len(name) > 20:
        with pytest.raises(RetryableError):
            read(_answer(name=name))
    else:
        assert read(_answer(name=name)).name == (name or None)
