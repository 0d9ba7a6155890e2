from __future__ import annotations

import base64
from dataclasses import replace
from uuid import UUID

import pytest

from log_api.cursors import Cursors, Position
from log_api.listing import Condition, Direction, ListQuery
from schemas.identity import new_id

QUERY = ListQuery(
    ("a",),
    1000,
    2000,
    conditions=(Condition("actor_id", False, ("x", "y")), Condition("raw_method", True, ("GET",))),
)
PLACE = Position(UUID(new_id(1500)), 1_769_192_714_749)


def test_a_cursor_leads_back_to_its_place() -> None:
    cursors = Cursors(b"k" * 32)
    assert cursors.position(QUERY, cursors.after(QUERY, PLACE)) == PLACE


def test_what_was_complete_travels_with_it_also_where_nothing_was() -> None:
    cursors = Cursors(b"k" * 32)
    unknown = PLACE._replace(complete_before_ms=None)
    assert cursors.position(QUERY, cursors.after(QUERY, unknown)) == unknown


def test_the_place_and_the_limit_of_the_asking_page_do_not_matter() -> None:
    cursors = Cursors(b"k" * 32)
    moved = replace(QUERY, limit=7, after=UUID(new_id(1600)))
    assert cursors.position(moved, cursors.after(QUERY, PLACE)) == PLACE


def test_the_order_of_filters_and_values_does_not_matter() -> None:
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
def test_another_query_cannot_use_it(other: ListQuery) -> None:
    cursors = Cursors(b"k" * 32)
    assert cursors.position(other, cursors.after(QUERY, PLACE)) is None


def test_another_key_cannot_read_it() -> None:
    assert Cursors(b"l" * 32).position(QUERY, Cursors(b"k" * 32).after(QUERY, PLACE)) is None


def test_no_bit_of_it_can_be_changed() -> None:
    cursors = Cursors(b"k" * 32)
    raw = base64.urlsafe_b64decode(cursors.after(QUERY, PLACE))
    for bit in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        assert cursors.position(QUERY, base64.urlsafe_b64encode(changed).decode()) is None


@pytest.mark.parametrize("change", ["{}=", "{}\n", " {}", "{}AAAA", "!{}", "é{}"])
def test_nothing_may_be_added_to_it(change: str) -> None:
    cursors = Cursors(b"k" * 32)
    assert cursors.position(QUERY, change.format(cursors.after(QUERY, PLACE))) is None


def test_it_does_not_show_what_was_asked() -> None:
    cursor = base64.urlsafe_b64decode(Cursors(b"k" * 32).after(replace(QUERY, accounts=("acme",)), PLACE))
    assert b"acme" not in cursor
