from __future__ import annotations

import base64
from dataclasses import replace
from uuid import UUID

import pytest

from log_api.cursors import Cursors, Position
from log_api.sql_builder import Condition, Direction, ListQuery
from schemas.identity import new_id

QUERY = ListQuery(
    ("a",),
    1000,
    2000,
    conditions=(Condition("actor_id", False, ("x", "y")), Condition("raw_method", True, ("GET",))),
)
PLACE = Position(UUID(new_id(1500)), 1_769_192_714_749)


def test_a_cursor_holds_its_position() -> None:
    cursors = Cursors(b"k" * 32)
    assert cursors.position(QUERY, cursors.after(QUERY, PLACE)) == PLACE


def test_a_cursor_holds_the_watermark_or_its_absence() -> None:
    cursors = Cursors(b"k" * 32)
    unknown = PLACE._replace(complete_before_ms=None)
    assert cursors.position(QUERY, cursors.after(QUERY, unknown)) == unknown


def test_a_cursor_ignores_the_position_and_limit_of_the_query() -> None:
    cursors = Cursors(b"k" * 32)
    moved = replace(QUERY, limit=7, after=UUID(new_id(1600)))
    assert cursors.position(moved, cursors.after(QUERY, PLACE)) == PLACE


def test_a_cursor_ignores_the_order_of_filters_and_values() -> None:
    cursors = Cursors(b"k" * 32)
    turned = replace(
        QUERY,
        conditions=(Condition("raw_method", True, ("GET",)), Condition("actor_id", False, ("y", "x", "x"))),
    )
    assert cursors.position(turned, cursors.after(QUERY, PLACE)) == PLACE


@pytest.mark.parametrize(
    "other",
    [
        replace(QUERY, accounts=("b",)),
        replace(QUERY, since_ms=1001),
        replace(QUERY, before_ms=2001),
        replace(QUERY, direction=Direction.ASC),
        replace(QUERY, conditions=()),
        replace(QUERY, conditions=QUERY.conditions[:1]),
        replace(QUERY, conditions=(Condition("actor_id", True, ("x", "y")), QUERY.conditions[1])),
        replace(QUERY, conditions=(Condition("actor_id", False, ("x",)), QUERY.conditions[1])),
        replace(QUERY, conditions=(Condition("resource_id", False, ("x", "y")), QUERY.conditions[1])),
    ],
)
def test_another_query_rejects_a_cursor(other: ListQuery) -> None:
    cursors = Cursors(b"k" * 32)
    assert cursors.position(other, cursors.after(QUERY, PLACE)) is None


def test_another_key_rejects_a_cursor() -> None:
    assert Cursors(b"l" * 32).position(QUERY, Cursors(b"k" * 32).after(QUERY, PLACE)) is None


def test_a_changed_bit_invalidates_a_cursor() -> None:
    cursors = Cursors(b"k" * 32)
    raw = base64.urlsafe_b64decode(cursors.after(QUERY, PLACE))
    for bit in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        assert cursors.position(QUERY, base64.urlsafe_b64encode(changed).decode()) is None


@pytest.mark.parametrize("change", ["{}=", "{}\n", " {}", "{}AAAA", "!{}", "é{}"])
def test_a_cursor_with_extra_text_is_invalid(change: str) -> None:
    cursors = Cursors(b"k" * 32)
    assert cursors.position(QUERY, change.format(cursors.after(QUERY, PLACE))) is None


def test_a_cursor_does_not_reveal_the_query() -> None:
    cursor = base64.urlsafe_b64decode(Cursors(b"k" * 32).after(replace(QUERY, accounts=("acme",)), PLACE))
    assert b"acme" not in cursor
