"""Windows, seen values and their alerts, in any order and for repeated records."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerting.engine import Alert
from alerting.memory_store import MemoryAlertStore
from alerting.rules import Window
from schemas.record import Record
from tests.alert_cases import AT_MS, action, raised, rules

MINUTE_MS = 60_000
# The start of a window of ten minutes.
BEGIN_MS = AT_MS - AT_MS % (10 * MINUTE_MS)
FAILURES = {"name": "failures", "when": {"action.result": "failure"}, "key": ["actor.id"], "threshold": 5}
TUMBLING = FAILURES | {"window": "10m"}
HOPPING = FAILURES | {"window": {"size": "10m", "hop": "1m"}}


def failures(*minutes: float, actor: str = "ana") -> list[Record]:
    return [
        action(BEGIN_MS + int(minute * MINUTE_MS), action_result="failure", actor_id=actor)
        for minute in minutes
    ]


@pytest.mark.parametrize(
    ("window", "at_ms", "expected"),
    [
        (Window(10, 10), 20, [20]),
        (Window(10, 10), 29, [20]),
        (Window(10, 2), 20, [12, 14, 16, 18, 20]),
        (Window(10, 2), 21, [12, 14, 16, 18, 20]),
        (Window(10, 5), 14, [5, 10]),
    ],
)
def test_the_windows_that_hold_a_time(window: Window, at_ms: int, expected: list[int]) -> None:
    starts = list(window.starts(at_ms))
    assert starts == expected
    assert all(start <= at_ms < start + window.size_ms for start in starts)


async def test_a_threshold_raises_once_per_window() -> None:
    [alert] = await raised(rules(TUMBLING), failures(0, 1, 2, 3, 4, 5, 6, 7))
    assert (alert.window_start_ms, alert.window_ms, alert.records) == (BEGIN_MS, 10 * MINUTE_MS, 5)
    assert alert.key == '{"actor.id":"ana"}'


async def test_one_below_the_threshold_raises_nothing() -> None:
    assert await raised(rules(TUMBLING), failures(0, 1, 2, 3)) == []


async def test_keys_and_accounts_are_counted_separately() -> None:
    mixed = [*failures(0, 1, 2, 3), *failures(4, actor="bob")]
    elsewhere = [action(BEGIN_MS, action_result="failure", account_id="other")]
    assert await raised(rules(TUMBLING), [*mixed, *elsewhere]) == []


async def test_a_hopping_window_counts_across_the_edge_of_a_tumbling_one() -> None:
    straddling = failures(8, 9, 9.5, 10.5, 11)
    assert await raised(rules(TUMBLING), straddling) == []
    [alert] = await raised(rules(HOPPING), straddling)
    assert alert.window_start_ms <= BEGIN_MS + 8 * MINUTE_MS


async def test_a_hopping_window_raises_one_alert_per_incident() -> None:
    assert len(await raised(rules(HOPPING), failures(*(minute / 10 for minute in range(80))))) == 1


async def test_an_ongoing_incident_raises_one_alert_per_window() -> None:
    found = await raised(rules(HOPPING), failures(*(minute / 2 for minute in range(60))))
    starts = sorted(alert.window_start_ms for alert in found)
    assert len(starts) in {3, 4}
    assert all(later - earlier >= 10 * MINUTE_MS for earlier, later in pairwise(starts))


async def test_a_repeated_record_counts_once() -> None:
    four = failures(0, 1, 2, 3)
    assert await raised(rules(TUMBLING), [*four, *four, *four]) == []


def same(found: Sequence[Alert]) -> set[tuple[str, bytes, int]]:
    return {(alert.rule, alert.key_digest, alert.window_start_ms) for alert in found}


@given(
    st.lists(st.tuples(st.floats(0, 60), st.sampled_from(["ana", "bob"])), max_size=40),
    st.randoms(use_true_random=False),
    st.sampled_from([TUMBLING, TUMBLING | {"threshold": 1}]),
)
@settings(max_examples=100)
async def test_order_and_repetition_do_not_change_tumbling_windows(
    minutes: list[tuple[float, str]], draw: random.Random, rule: dict[str, object]
) -> None:
    records = [one for minute, actor in minutes for one in failures(minute, actor=actor)]
    again = [*records, *draw.choices(records, k=len(records))] if records else []
    draw.shuffle(again)
    assert same(await raised(rules(rule), again)) == same(await raised(rules(rule), records))


@given(
    st.lists(st.floats(0, 40), max_size=60),
    st.randoms(use_true_random=False),
)
@settings(max_examples=100)
async def test_hopping_windows_raise_every_incident_once(minutes: list[float], draw: random.Random) -> None:
    records = failures(*minutes)
    draw.shuffle(records)
    store = MemoryAlertStore()
    found = await raised(rules(HOPPING), [*records, *records], store)
    starts = sorted(alert.window_start_ms for alert in found)
    size_ms, hop_ms = 10 * MINUTE_MS, MINUTE_MS
    assert all(later - earlier >= size_ms for earlier, later in pairwise(starts))
    times = [one.id.int >> 80 for one in records]
    for start in range(BEGIN_MS - size_ms, BEGIN_MS + 60 * MINUTE_MS, hop_ms):
        if sum(start <= at < start + size_ms for at in times) >= 5:
            assert any(abs(start - other) < size_ms for other in starts)


async def test_counts_within_the_baseline_raise_nothing() -> None:
    rule = {"when": {"action.type": "delete"}, "key": [], "threshold": 3, "window": "10m"}
    unusual = rules(rule | {"baseline": {"times": 3, "windows": 6}})
    busy = [
        action(BEGIN_MS + window * 10 * MINUTE_MS + number, action_type="delete")
        for window in range(6)
        for number in range(2)
    ]
    then = BEGIN_MS + 6 * 10 * MINUTE_MS
    assert await raised(unusual, [*busy, *(action(then + n, action_type="delete") for n in range(5))]) == []
    [alert] = await raised(unusual, [*busy, *(action(then + n, action_type="delete") for n in range(7))])
    assert alert.records == 6  # three times the mean of two
    assert len(await raised(unusual, [action(then + n, action_type="delete") for n in range(3)])) == 1


async def test_only_rules_above_a_drop_rule_see_dropped_records() -> None:
    held = rules(
        {"name": "above", "when": {"actor.id": "ana"}},
        {"severity": "drop", "when": {"action.type": "view"}},
        {"name": "below", "when": {"actor.id": "ana"}},
    )
    assert [alert.rule for alert in await raised(held, [action(action_type="view")])] == ["above"]
    assert [alert.rule for alert in await raised(held, [action()])] == ["above", "below"]


async def test_one_record_raises_one_alert_for_its_key_and_window() -> None:
    held = rules({"when": {"action.type": "update"}, "key": ["resource.id"], "window": "1h"})
    found = await raised(held, [action(resource_id="a"), action(resource_id="b"), action(resource_id="a")])
    assert [alert.key for alert in found] == ['{"resource.id":"a"}', '{"resource.id":"b"}']
    assert found[0].id != found[1].id


async def test_new_does_not_raise_for_the_first_value_of_a_key() -> None:
    rule = {
        "when": {"actor.ip_address": {"absent": False}},
        "seen_values": {
            "raise": "new",
            "value": "actor.ip_address",
            "network": {"v4": 24},
            "key": ["actor.token_id"],
        },
        "key": ["actor.token_id", "actor.ip_address"],
    }
    addresses = ["203.0.113.9", "203.0.113.200", "198.51.100.7", "198.51.100.8", "203.0.113.1"]
    found = await raised(
        rules(rule), [action(actor_token_id="t", actor_ip_address=address) for address in addresses]
    )
    assert [alert.record.actor_ip_address for alert in found] == ["198.51.100.7"]


async def test_unknown_learns_from_other_records() -> None:
    rule = {
        "when": {"resource.type": "routes"},
        "seen_values": {
            "raise": "unknown",
            "value": "resource.request#/script",
            "learn": {"when": {"resource.type": "scripts"}, "value": "resource.id"},
        },
    }
    route: dict[str, Any] = {"resource_type": "routes", "resource_request": '{"script":"a"}'}
    script = action(resource_type="scripts", resource_id="a")
    assert len(await raised(rules(rule), [action(**route)])) == 1
    assert await raised(rules(rule), [script, action(**route)]) == []
    assert len(await raised(rules(rule), [script, action(account_id="other", **route)])) == 1
    assert await raised(rules(rule), [action(resource_type="routes")]) == []  # no value to look up


async def test_known_raises_for_keys_that_have_seen_a_value() -> None:
    rule = {
        "when": {"action.type": "delete"},
        "seen_values": {
            "raise": "known",
            "values": ["MX"],
            "key": ["resource.id"],
            "learn": {"when": {"resource.type": "dns"}, "value": "resource.response#/type"},
        },
    }
    made: dict[str, Any] = {"resource_type": "dns", "resource_id": "r", "resource_response": '{"type":"MX"}'}
    gone = action(action_type="delete", resource_id="r", resource_type="dns")
    assert await raised(rules(rule), [gone]) == []
    assert len(await raised(rules(rule), [action(**made), gone])) == 1
    assert await raised(rules(rule), [action(**made | {"resource_id": "other"}), gone]) == []
    assert len(await raised(rules(rule), [action(**made | {"action_type": "delete"})])) == 1
