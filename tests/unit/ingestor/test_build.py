from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from eventlog.ports import LoggedEvent
from ingestor.build import build_record
from ingestor.config import DAY_MS, IngestorConfig
from schemas.errors import DeadLetterReason, UnprocessableEvent
from schemas.event import (
    Account,
    Action,
    Actor,
    AuditEvent,
    Exchange,
    RawRequest,
    Resource,
    Tap,
    Truncation,
    Zone,
    encode_event,
    truncate_event,
)
from schemas.identity import id_ms, new_id, parse_id
from schemas.record import event_id_of
from tests.records import event

NOW = 1_769_192_714_749
CONFIG = IngestorConfig()


def built(one: AuditEvent | bytes) -> Any:
    value = one if isinstance(one, bytes) else encode_event(one)
    return build_record(LoggedEvent(4711, NOW, value), CONFIG, NOW)


def refusal(one: AuditEvent | bytes) -> UnprocessableEvent:
    with pytest.raises(UnprocessableEvent) as caught:
        built(one)
    return caught.value


def test_every_field_of_an_event_reaches_its_column() -> None:
    record = built(
        event(
            NOW,
            account=Account("acc", "Acme"),
            action=Action("failure", "", "delete", "Delete a thing"),
            actor=Actor("u1", "dash", "a@example.com", "203.0.113.9", "t1", "ci", "user"),
            raw=RawRequest("ray", "DELETE", 404, "/things/1", "curl"),
            resource=Resource(
                "1", "things", msgspec.Raw(b'{"a":1.10}'), msgspec.Raw(b"[]"), "accounts", "thing"
            ),
            zone=Zone("z1", "example.com"),
            tap=Tap("gw", 5, 6),
            exchange=Exchange("api.example.com", 12, 812),
        )
    )
    assert (record.account_id, record.account_name) == ("acc", "Acme")
    assert (record.action_description, record.action_result, record.action_type) == (
        "Delete a thing",
        "failure",
        "delete",
    )
    assert (record.actor_id, record.actor_context, record.actor_email, record.actor_ip_address) == (
        "u1",
        "dash",
        "a@example.com",
        "203.0.113.9",
    )
    assert (record.actor_token_id, record.actor_token_name, record.actor_type) == ("t1", "ci", "user")
    assert (record.raw_cf_ray_id, record.raw_method, record.raw_status_code) == ("ray", "DELETE", 404)
    assert (record.exchange_host, record.exchange_duration_ms, record.exchange_response_bytes) == (
        "api.example.com",
        12,
        812,
    )
    assert (record.raw_uri, record.raw_user_agent) == ("/things/1", "curl")
    assert (record.resource_id, record.resource_product, record.resource_type) == ("1", "things", "thing")
    assert (record.resource_request, record.resource_response, record.resource_scope) == (
        '{"a":1.10}',
        "[]",
        "accounts",
    )
    assert (record.zone_id, record.zone_name) == ("z1", "example.com")
    assert (record.tap_id, record.tap_epoch, record.tap_seq, record.received_ms) == ("gw", 5, 6, NOW)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (b"", ""),
        (b"\xff\xfe", ""),
        (b"[" * 100_000, ""),
        (b"[]", "$: type"),
        (b"{}", "id: required"),
        (b'{"id": 5, "action": {"result": "success", "time": "", "type": "view"}}', "id: type"),
    ],
)
def test_a_value_that_is_no_event_is_malformed(value: bytes, path: str) -> None:
    reason = refusal(value)
    assert (reason.reason, reason.path) == (DeadLetterReason.MALFORMED, path)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"id": "0" * 32}, "id: pattern"),
        ({"action": Action("maybe", "", "view")}, "action.result: enum"),
        ({"action": Action("success", "", "look")}, "action.type: enum"),
        ({"raw": RawRequest(status_code=70_000)}, "raw.status_code: maximum"),
        ({"tap": Tap("gw", 1 << 63, 0)}, "tap: maximum"),
        ({"actor": Actor(ip_address="s3cret")}, "actor.ip_address: format"),
        ({"exchange": Exchange("s3cret", -1)}, "exchange: maximum"),
        ({"exchange": Exchange(duration_ms=1 << 31)}, "exchange: maximum"),
        ({"exchange": Exchange(response_bytes=-1)}, "exchange: maximum"),
        ({"exchange": Exchange(response_bytes=1 << 53)}, "exchange: maximum"),
    ],
)
def test_fields_out_of_their_bounds_are_dead_lettered_by_name(changes: dict[str, Any], path: str) -> None:
    reason = refusal(event(NOW, **changes))
    assert (reason.reason, reason.path) == (DeadLetterReason.MALFORMED, path)
    assert "s3cret" not in str(reason)


@pytest.mark.parametrize(
    "text", ["::ffff:10.0.0.1", "::FFFF:a00:1", "10.0.0.1", "10.0.0.1:1234", "[::ffff:10.0.0.1]:80"]
)
def test_an_address_has_one_form(text: str) -> None:
    assert built(event(NOW, actor=Actor(ip_address=text))).actor_ip_address == "10.0.0.1"


@pytest.mark.parametrize(
    ("at_ms", "reason"),
    [
        (0, DeadLetterReason.EXPIRED),
        (NOW - CONFIG.retention_days * DAY_MS - 1, DeadLetterReason.EXPIRED),
    ],
)
def test_time_out_of_bounds_is_dead_lettered(at_ms: int, reason: DeadLetterReason) -> None:
    assert refusal(event(at_ms)).reason == reason


@pytest.mark.parametrize(
    "at_ms", [NOW - CONFIG.retention_days * DAY_MS, NOW, NOW + CONFIG.clock_ahead_ms_max]
)
def test_time_within_bounds_is_built(at_ms: int) -> None:
    assert built(event(at_ms)).id.hex[:12] == f"{at_ms:012x}"


@pytest.mark.parametrize("at_ms", [NOW + CONFIG.clock_ahead_ms_max + 1, NOW + 400 * DAY_MS, (1 << 48) - 1])
def test_a_time_too_far_ahead_is_clamped_to_the_time_of_receipt(at_ms: int) -> None:
    event_id = new_id(at_ms)
    record = built(event(at_ms, id=event_id))
    assert record.id.hex == f"{NOW:012x}{event_id[12:]}"
    assert parse_id(record.id.hex) == record.id.hex
    assert record.clamped_from_ms == at_ms
    assert event_id_of(record).hex == event_id


@pytest.mark.parametrize(
    ("received_ms", "reference_ms"),
    [
        (NOW - 7 * DAY_MS, NOW - 7 * DAY_MS),
        (NOW + 3_600_000, NOW),
        # A collector without a clock.
        (0, NOW),
        (-1, NOW),
    ],
)
def test_clamping_refers_to_the_time_of_receipt_or_the_present(received_ms: int, reference_ms: int) -> None:
    bound_ms = reference_ms + CONFIG.clock_ahead_ms_max
    for at_ms, clamped_ms in ((bound_ms, bound_ms), (bound_ms + 1, reference_ms)):
        value = encode_event(event(at_ms))
        record = build_record(LoggedEvent(4711, received_ms, value), CONFIG, NOW)
        assert id_ms(record.id.hex) == clamped_ms
        assert record.clamped_from_ms == (None if clamped_ms == at_ms else at_ms)


def test_hostile_texts_are_made_storable() -> None:
    record = built(
        event(
            NOW,
            account=Account("a" * 5_000),
            zone=Zone("z\0"),
            raw=RawRequest(user_agent="a\0b", uri="/" + "x" * 20_000),
            resource=Resource("r" * 20_000),
        )
    )
    assert record.account_id is None
    assert record.zone_id is None
    assert record.raw_user_agent == "a\N{REPLACEMENT CHARACTER}b"
    assert len(record.raw_uri) == len(record.resource_id) == CONFIG.text_chars_max


def test_digests_of_different_events_differ() -> None:
    event_id = new_id(NOW)
    first, again = built(event(NOW, id=event_id)), built(event(NOW, id=event_id))
    other = built(event(NOW, id=event_id, raw=RawRequest(method="GET")))
    assert first.event_digest == again.event_digest != other.event_digest


def test_a_truncated_event_is_dead_lettered_unless_asked_for() -> None:
    whole = encode_event(event(NOW, resource=Resource("1", request=msgspec.Raw(b'"%s"' % (b"x" * 9_000)))))
    cut = truncate_event(whole)
    assert cut is not None
    assert refusal(cut).reason is DeadLetterReason.TOO_LARGE

    record = build_record(LoggedEvent(1, NOW, cut), CONFIG, NOW, accept_truncated=True)

    assert (record.resource_id, record.resource_request) == ("1", None)
    assert json.loads(record.receipt)["request"] == {"reason": "too_large"}
    # Should the whole one come after all, it is a repeat and no conflict.
    assert record.event_digest == built(whole).event_digest


def test_a_truncated_event_without_a_digest_is_malformed() -> None:
    why = refusal(event(NOW, cut=Truncation(1, "no digest")))
    assert (why.reason, why.path) == (DeadLetterReason.MALFORMED, "cut.digest: pattern")
