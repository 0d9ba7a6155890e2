"""A stream of events with planted incidents, and the alerts that these have to raise."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

from schemas.event import Account, Action, Actor, AuditEvent, EncodedEvent, RawRequest, Resource, encode_event
from schemas.identity import new_id, rfc3339_ms

ACCOUNTS = [f"{number:032x}" for number in range(1, 21)]
_OWNER = b'{"roles":["owner"]}'
_BROAD = b'{"policies":[{"resources":{"account":"all"}}]}'
_MAIL = b'{"type":"MX"}'


def event(at_ms: int, *, account: str, kind: str, result: str = "success", **parts: Any) -> AuditEvent:
    actor = {"id": "robot", **parts.pop("actor", {})}
    resource: dict[str, Any] = {
        name: msgspec.Raw(value) if name == "request" else value for name, value in parts.items()
    }
    return AuditEvent(
        id=new_id(at_ms),
        action=Action(result=result, time=rfc3339_ms(at_ms), type=kind),
        account=Account(id=account),
        actor=Actor(**actor),
        raw=RawRequest(method="PUT", status_code=200 if result == "success" else 403),
        resource=Resource(**resource),
    )


def encoded(one: AuditEvent) -> EncodedEvent:
    return EncodedEvent(one.id, encode_event(one), int(one.id[:12], 16))


class PlantedStream:
    """`events` events over an hour, in the order of their times; `expected` counts alerts by rule."""

    def __init__(self, events: int, since_ms: int, seed: int = 7) -> None:
        self._draw = random.Random(seed)
        self._since_ms = since_ms - since_ms % 600_000
        self.expected: Counter[str] = Counter()
        planted = [each for number in range(5) for each in self._incidents(number)]
        noise = (self._noise(number, events - len(planted)) for number in range(events - len(planted)))
        self.events = sorted([*planted, *noise], key=lambda one: one.id)

    def _at(self, minute: float) -> int:
        return self._since_ms + int(minute * 60_000)

    def _incidents(self, number: int) -> Iterator[AuditEvent]:
        account, at = ACCOUNTS[number], self._at(40 + number)
        for burst in range(2):
            who = {"id": f"intruder-{number}-{burst}"}
            for failure in range(5):
                at_ms = self._at(5 + number * 2 + burst * 20) + failure * 20_000
                yield event(at_ms, account=account, kind="update", result="failure", actor=who)
        yield event(at, account=account, kind="create", type="members", id=f"m{number}", request=_OWNER)
        yield event(at, account=account, kind="create", type="tokens", id=f"t{number}", request=_BROAD)
        yield event(at, account=account, kind="delete", type="two_factor", actor={"id": f"victim-{number}"})
        yield event(at, account=account, kind="delete", product="firewall", type="rules", id=f"f{number}")
        dns = {"account": account, "type": "dns_records", "id": f"d{number}"}
        yield event(self._at(number / 10), kind="create", request=_MAIL, **dns)
        yield event(at, kind="delete", **dns)
        for minute, address in ((0.5, "203.0.113.9"), (45, "203.0.113.77"), (46, "198.51.100.7")):
            user = {"token_id": f"tok-{number}", "ip_address": address}
            yield event(self._at(minute + number / 10), account=account, kind="update", actor=user)
        self.expected.update(
            {
                "failures-by-one-actor": 2,
                "super-administrator": 1,
                "broad-token": 1,
                "two-factor-off": 1,
                "firewall-rule-deleted": 1,
                "dns-record-deleted": 1,
                "token-from-new-network": 1,
            }
        )

    def _noise(self, number: int, of: int) -> AuditEvent:
        at, account = self._at(59 * number / of), self._draw.choice(ACCOUNTS)
        match number % 50:
            case 0:  # never the same actor twice
                who = {"id": f"clumsy-{number}"}
                return event(at, account=account, kind="update", result="failure", actor=who)
            case 1:
                user = {"token_id": f"usual-{number % 30}", "ip_address": "192.0.2.1"}
                return event(at, account=ACCOUNTS[0], kind="update", actor=user)
            case 2:
                return event(
                    at, account=account, kind="create", type="members", request=b'{"roles":["reader"]}'
                )
            case small if small < 30:
                return event(at, account=account, kind="view", product="zones", type="zones")
            case _:
                return event(at, account=account, kind="update", product="alerting", type="policies")
