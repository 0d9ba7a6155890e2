"""Which records a condition fits."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerting.conditions import UnfitCondition, compile_condition
from alerting.record_fields import FIELDS, RecordView, field_reader
from alerting.rules import key_text
from tests.alert_cases import AT_MS, action

HOUR_MS = 3_600_000
BODY = json.dumps(
    {"type": "MX", "priority": 10, "on": True, "roles": [{"name": "reader"}, {"name": "owner"}], "a/b": None}
)


def fits(stated: dict[str, Any], **changes: Any) -> bool:
    return compile_condition(stated)(RecordView(action(**changes)))


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"action.type": "update"}, True),
        ({"action.type": "delete"}, False),
        ({"action.type": ["delete", "update"]}, True),
        ({"action.type": {"in": ["delete"]}}, False),
        ({"action.type": {"not_in": ["delete"]}}, True),
        ({"actor.email": {"not_in": ["x@example.com"]}}, False),  # a field that is not there fits nothing …
        ({"not": {"actor.email": "x@example.com"}}, True),  # … and so its denial does
        ({"actor.email": {"absent": True}}, True),
        ({"actor.email": {"absent": False}}, False),
        ({"raw.status_code": {"from": 400, "to": 499}}, True),
        ({"raw.status_code": {"from": 404}}, False),
        ({"raw.status_code": {"to": 402}}, False),
        ({"raw.status_code": 403}, True),
        ({"raw.uri": {"prefix": "/accounts/"}}, True),
        ({"raw.uri": {"prefix": ["/zones/", "/user"]}}, False),
        ({"raw.uri": {"contains": "MEMBERS"}}, True),
        ({"actor.ip_address": {"cidr": "203.0.113.0/24"}}, True),
        ({"actor.ip_address": {"cidr": ["2001:db8::/32", "10.0.0.0/8"]}}, False),
        ({"actor.ip_address": {"not_cidr": "10.0.0.0/8"}}, True),
        ({"actor.ip_address": {"cidr": "::ffff:203.0.113.0/120"}}, True),
        ({"actor.ip_address": {"cidr": "::/0"}}, False),
        ({"resource.request#/type": ["MX", "A"]}, True),
        ({"resource.request#/type": {"prefix": "A"}}, False),
        ({"resource.request#/roles/*/name": "owner"}, True),
        ({"resource.request#/roles/0/name": "owner"}, False),
        (
            {"resource.request#/roles/*/name": {"prefix": "own", "contains": "read"}},
            False,
        ),  # one value, all tests
        ({"resource.request#/on": True}, True),
        ({"resource.request#/on": 1}, False),
        ({"resource.request#/priority": {"from": 10}}, True),
        ({"resource.request#/a~1b": {"absent": True}}, True),
        ({"resource.request#/roles": {"absent": True}}, True),  # only a scalar is a value
        ({"resource.response#/type": "MX"}, False),
        ({"any": [{"action.type": "delete"}, {"actor.id": "ana"}]}, True),
        ({"any": [{"action.type": "delete"}, {"actor.id": "bob"}]}, False),
        ({"all": [{"action.type": "update"}, {"actor.id": "bob"}]}, False),
        ({"action.type": "update", "actor.id": "bob"}, False),
    ],
)
def test_a_condition(stated: dict[str, Any], expected: bool) -> None:
    changes = {
        "raw_status_code": 403,
        "raw_uri": "/accounts/1/members",
        "actor_ip_address": "203.0.113.9",
        "resource_request": BODY,
        "receipt": '{"unmatched":"no_path","altered":true,"refused":["actor.id","actor.email"]}',
    }
    assert fits(stated, **changes) is expected


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"identity.reason": ["expired", "signature"]}, True),
        ({"identity.source": "token"}, False),
        ({"identity.issuer": {"absent": True}}, True),
        ({"identity.via": "gateway"}, True),
        ({"identity.on_behalf_of_id": "u-1"}, True),
        ({"identity.on_behalf_of_email": {"absent": False}}, False),
    ],
)
def test_conditions_on_who_it_was(stated: dict[str, Any], expected: bool) -> None:
    identity = {
        "source": "headers",
        "reason": "expired",
        "via": ["edge", "gateway"],
        "on_behalf_of": {"id": "u-1"},
    }
    assert fits(stated, receipt=json.dumps({"identity": identity})) is expected
    for without in ("{}", '{"identity":null}', '{"identity":{"source":"none","on_behalf_of":null}}'):
        assert fits({name: {"absent": True} for name in stated if name != "identity.source"}, receipt=without)


@pytest.mark.parametrize(
    ("hours", "at_ms", "expected"),
    [
        ({"outside": "08:00-18:00"}, AT_MS, False),  # Tuesday, 10:00 UTC
        ({"inside": "08:00-18:00"}, AT_MS, True),
        ({"outside": "08:00-18:00"}, AT_MS + 8 * HOUR_MS, True),  # 18:00 is no longer inside
        ({"outside": "08:00-18:00"}, AT_MS + 8 * HOUR_MS - 1, False),
        ({"outside": "08:00-18:00", "days": ["mon"]}, AT_MS, True),
        ({"outside": "08:00-18:00", "timezone": "Asia/Tokyo"}, AT_MS, True),  # 19:00 there
        ({"inside": "00:00-24:00"}, AT_MS + 14 * HOUR_MS - 1, True),
    ],
)
def test_hours(hours: dict[str, Any], at_ms: int, expected: bool) -> None:
    assert fits({"hours": hours}, at_ms=at_ms) is expected


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ({"action.typ": "view"}, "no field action.typ"),
        ({"resource.request": "x"}, "no field"),
        ({"resource.request#type": "x"}, "no field"),
        ({"actor.ip_address": {"cidr": "10.0.0.1/8"}}, "not a network"),
        ({"hours": {"outside": "18:00-08:00"}}, "begin before they end"),
        ({"hours": {"outside": "08:00-29:00"}}, "written as"),
        ({"hours": {"outside": "08:00-18:00", "timezone": "Mars/Base"}}, "no such time zone"),
        ({"actor.id": {"absent": True, "prefix": "x"}}, "alone"),
        ({"any": [{"nothing": 1}]}, "no field nothing"),
    ],
)
def test_unfit_conditions_are_refused(stated: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnfitCondition, match=reason):
        compile_condition(stated)


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1" * 5_000, "-" + "1" * 5_000])
def test_a_number_out_of_range_hides_no_field_of_its_body(number: str) -> None:
    body = f'{{"n":{number},"role":"owner"}}'
    is_positive = not number.startswith("-")
    assert fits({"resource.request#/role": "owner"}, resource_request=body)
    assert fits({"resource.request#/n": {"from": 1e9}}, resource_request=body) is is_positive
    # Keys of alerts are JSON.
    [value] = field_reader("resource.request#/n")(RecordView(action(resource_request=body)))
    assert msgspec.json.decode(key_text([("n", value)])) == {"n": value}


def test_every_named_field_is_one_of_a_record() -> None:
    facts = RecordView(action())
    for name in FIELDS:
        assert (
            field_reader(
                f"{name}#/x"
                if name.startswith("resource.re")
                and name != "resource.resource"
                and name in {"resource.request", "resource.response"}
                else name
            )(facts)
            is not None
        )


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=20,
    ),
    st.text(alphabet="/*01ab~", max_size=8),
)
def test_no_body_and_no_pointer_trips_a_condition(body: Any, pointer: str) -> None:
    stated = {f"resource.request#/{pointer}": {"prefix": "a"}}
    assert fits(stated, resource_request=json.dumps(body)) in {True, False}


def test_a_body_that_is_not_decoded_has_no_values() -> None:
    assert not fits({"resource.request#/a": "x"}, resource_request="[" * 100_000)


def test_the_documentation_lists_every_field() -> None:
    page = (Path(__file__).parents[3] / "docs" / "alerts.md").read_text()
    table = page.split("### Fields")[1].split("###")[0]
    listed = set(
        re.findall(
            r"`((?:account|action|actor|raw|resource|zone|operation|tap|receipt|identity)\.\w+)", table
        )
    )
    assert listed == set(FIELDS)
