from __future__ import annotations

from calendar import timegm
from datetime import datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.identity import (
    MS_MAX,
    derive_id,
    first_id_at,
    id_ms,
    new_id,
    parse_id,
    parse_rfc3339_ms,
    rfc3339_ms,
)

KEY = b"k" * 32
milliseconds = st.integers(0, MS_MAX)


@given(milliseconds)
def test_a_new_id_is_a_uuid_of_version_7_that_carries_its_time(at_ms: int) -> None:
    text = new_id(at_ms)
    one = UUID(text)
    assert (one.version, one.variant, one.hex) == (7, "specified in RFC 4122", text)
    assert id_ms(text) == at_ms
    assert parse_id(text) == text
    assert first_id_at(at_ms) < one
    assert at_ms == MS_MAX or one < first_id_at(at_ms + 1)


@given(milliseconds, st.text(max_size=20), st.integers(0, 1 << 62), st.text(max_size=20))
def test_a_derived_id_is_the_same_every_time(at_ms: int, tap: str, epoch: int, position: str) -> None:
    text = derive_id(KEY, at_ms, tap, epoch, position)
    assert text == derive_id(KEY, at_ms, tap, epoch, position)
    assert (UUID(text).version, id_ms(text), parse_id(text)) == (7, at_ms, text)


def test_derived_ids_differ_by_every_part() -> None:
    base = (KEY, 5, "tap", 1, "seq 1")
    others = [
        (b"K" * 32, 5, "tap", 1, "seq 1"),
        (KEY, 6, "tap", 1, "seq 1"),
        (KEY, 5, "tip", 1, "seq 1"),
        (KEY, 5, "tap", 2, "seq 1"),
        (KEY, 5, "tap", 1, "seq 2"),
    ]
    assert len({derive_id(*each) for each in [base, *others]}) == 6


def test_ids_within_a_millisecond_hardly_ever_meet() -> None:
    assert len({new_id(5) for _ in range(10_000)}) == 10_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0" * 32,
        "g" * 32,
        "019bec1a71fd40b4a1a45f06f0c13dfd",  # version 4
        "019bec1a71fd70b4c1a45f06f0c13dfd",  # another variant
        "019bec1a71fd70b4a1a45f06f0c13df",
        "019bec1a71fd70b4a1a45f06f0c13dfd\n",
        "{19bec1a-71fd-70b4-a1a4-5f06f0c13dfd",
        "\N{ARABIC-INDIC DIGIT ZERO}" * 32,
    ],
)
def test_a_text_that_is_not_an_id_gives_none(text: str) -> None:
    assert parse_id(text) is None


def test_hyphens_and_capitals_are_the_same_id() -> None:
    text = new_id(1_769_192_714_749)
    assert parse_id(str(UUID(text)).upper()) == text


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31)))  # noqa: DTZ001  bounds of a strategy are naive
def test_times_are_read_as_they_are_written(at: datetime) -> None:
    # In whole numbers: `timestamp()` is a float and rounds the last microseconds of a second up to the next.
    expected = timegm(at.timetuple()) * 1000 + at.microsecond // 1000
    written = rfc3339_ms(expected)
    assert parse_rfc3339_ms(written) == expected
    assert written == at.strftime("%Y-%m-%dT%H:%M:%S.").rjust(20, "0") + f"{expected % 1000:03d}Z"


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2026-01-23T18:25:14.749Z", 1_769_192_714_749),
        ("2026-01-23T19:25:14.749999+01:00", 1_769_192_714_749),
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.999Z", -1),
        ("0001-01-01T00:00:00+14:00", -62_135_647_200_000),
        ("2026-01-23", None),
        ("2026-01-23T18:25:14", None),
        ("yesterday", None),
        ("2026-13-01T00:00:00Z", None),
    ],
)
def test_only_a_time_with_an_offset_is_a_time(text: str, ms: int | None) -> None:
    assert parse_rfc3339_ms(text) == ms


def test_a_time_beyond_the_calendar_is_written_as_its_end() -> None:
    assert rfc3339_ms(MS_MAX) == "9999-12-31T23:59:59.999Z"


def test_a_time_before_the_calendar_is_written_as_its_beginning() -> None:
    """A function of the database may have been called with any number."""
    assert rfc3339_ms(-(1 << 63)) == "1000-01-01T00:00:00.000Z"
