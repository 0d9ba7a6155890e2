from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_tap.receivers.ext_proc_messages import Part, decode_part
from schemas.capture import TapPosition
from schemas.errors import RefusedCapture
from tests.unit.gateway_tap.receivers.ext_proc_wire import attributes, body, field, head, metadata, trailers


@pytest.mark.parametrize("value_field", [2, 3])
def test_a_head_has_its_lines_number_and_attributes(value_field: int) -> None:
    rest = metadata(1_700_000_000_000_123, 7) + attributes(source_address="192.0.2.1:5")
    data = head(2, {":method": "GET", "x": "é"}, is_last=True, value_field=value_field, rest=rest)
    lines = [(b":method", b"GET"), (b"x", "é".encode())]
    position = TapPosition("envoy", 1_700_000_000_000_123, 7)
    known = {"source.address": "192.0.2.1:5"}
    assert decode_part(data) == Part(False, lines, b"", True, position, known)


def test_pieces_of_bodies_and_trailers_say_whose_they_are_and_whether_they_are_the_last() -> None:
    assert decode_part(body(4, b"a\xff")) == Part(False, body=b"a\xff")
    assert decode_part(body(5, b"b", is_last=True)) == Part(True, body=b"b", is_last=True)
    assert decode_part(trailers(6)) == Part(False, is_last=True)
    assert decode_part(trailers(7)) == Part(True, is_last=True)
    assert decode_part(head(3, {})) == Part(True, [])


@pytest.mark.parametrize(
    ("epoch", "number"), [(0, 1), (1, 0), (1, -1), (2.0**60, 1), (1, float("nan")), (1, 1e300)]
)
def test_a_number_that_is_none_is_not_taken(epoch: float, number: float) -> None:
    assert decode_part(head(2, {}, rest=metadata(epoch, number))).position is None


def test_fields_that_later_versions_may_add_are_skipped() -> None:
    assert decode_part(head(2, {"a": "b"}, rest=field(77, b"x") + field(78, 1))).headers == [(b"a", b"b")]


@pytest.mark.parametrize("data", [b"", field(10, 1), b"\x12\xff", b"secret"])
def test_what_is_no_message_is_refused_without_quoting_it(data: bytes) -> None:
    with pytest.raises(RefusedCapture) as refused:
        decode_part(data)
    assert "secret" not in str(refused.value)
    assert refused.value.__context__ is None or refused.value.__suppress_context__


@given(st.binary(max_size=200))
def test_any_bytes_are_a_part_or_refused(data: bytes) -> None:
    with contextlib.suppress(RefusedCapture):
        decode_part(data)


def test_a_part_shows_nothing_of_the_traffic() -> None:
    assert repr(decode_part(head(2, {"cookie": "s3cret"}))) == "<part>"
