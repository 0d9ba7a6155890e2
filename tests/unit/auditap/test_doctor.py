"""At which hop a request was lost, by what was seen of it."""

from __future__ import annotations

from typing import Any

import pytest

from auditap.cli.doctor import Seen, diagnose

ALL_ROSE = {"captures_accepted": 1.0, "events_consumed": 1.0, "records_stored": 1.0}


def record(unmatched: str | None = None) -> dict[str, Any]:
    return {
        "id": "018f",
        "raw": {"method": "POST", "uri": "/notes"},
        "action": {"type": "create", "description": "Create a note"},
        "auditap": {"receipt": {"unmatched": unmatched}},
    }


@pytest.mark.parametrize(
    ("seen", "hop", "hint"),
    [
        (Seen(None, None, None, None), "gateway", "is the gateway running"),
        (Seen(200, {}, {}, None), "tap", "no capture reached the collector"),
        (Seen(200, {"captures_refused": 1.0}, {}, None), "collector", "refused a capture"),
        (Seen(200, {"captures_unavailable": 1.0}, {}, None), "collector", "the event log is away"),
        (Seen(200, {**ALL_ROSE, "captures_excluded": 1.0}, {}, None), "collector", "excluded_operations"),
        (Seen(200, ALL_ROSE, {"dead_letters": 1.0}, None), "ingestor", "dead-letters list"),
        (Seen(200, ALL_ROSE, {}, None), "ingestor", "reads nothing"),
        (Seen(200, ALL_ROSE, ALL_ROSE, None), "record", "replace x-request-id"),
        (Seen(200, ALL_ROSE, ALL_ROSE, record("no_path")), "operation", "POST /notes (no_path)"),
        (Seen(200, ALL_ROSE, ALL_ROSE, record("no_method")), "operation", "has no POST for /notes"),
        (Seen(200, ALL_ROSE, ALL_ROSE, record("invalid_path")), "operation", "trailing slash"),
    ],
)
def test_the_last_hop_is_the_one_where_it_was_lost(seen: Seen, hop: str, hint: str) -> None:
    *passed, last = diagnose(seen)
    assert all(each.passed for each in passed)
    assert (last.name, last.passed) == (hop, False)
    assert hint in last.what


def test_what_cannot_be_seen_is_unknown_and_does_not_end_the_search() -> None:
    hops = diagnose(Seen(200, None, ALL_ROSE, None))
    assert [(hop.name, hop.passed) for hop in hops] == [
        ("gateway", True),
        ("tap", None),
        ("collector", None),
        ("ingestor", True),
        ("record", False),
    ]


def test_a_record_that_is_there_shows_that_every_hop_was_passed_whatever_the_metrics_say() -> None:
    hops = diagnose(Seen(201, None, {}, record()))
    assert [hop.passed for hop in hops] == [True] * 6
    assert hops[-1].what == "Create a note"


def test_a_log_that_cannot_be_asked_is_no_lost_request() -> None:
    hops = diagnose(Seen(200, None, None, None, log_answers=False))
    assert [(hop.name, hop.passed) for hop in hops] == [("gateway", True), ("log API", None)]
