"""Each rule of the files that are shipped raises for its incident, and for nothing similar."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import pytest

from alerting.rules import RuleSet
from alerting.rules_parser import parse_rules
from schemas.record import Record
from tests.alert_cases import AT_MS, action, raised

MINUTE_MS = 60_000
BEGIN_MS = AT_MS - AT_MS % (10 * MINUTE_MS)


NEUTRAL, PRODUCTS = "shipped_rules.yaml", "cloudflare_rules.yaml"


def text_of(name: str) -> str:
    return files("alerting").joinpath(name).read_text()


def rules_of(name: str) -> RuleSet:
    return parse_rules(text_of(name).encode(), name)


@pytest.fixture(scope="module")
def shipped() -> RuleSet:
    return rules_of(PRODUCTS)


def test_the_default_rules_fit_any_api_and_end_the_other_file() -> None:
    stated = text_of(NEUTRAL).partition("rules:\n")[2]
    assert "resource." not in stated
    assert text_of(PRODUCTS).endswith(f"\n\n{stated}")
    assert [rule.name for rule in rules_of(NEUTRAL).rules if rule.drops] == ["routine-reads"]


def member(body: str, **changes: Any) -> list[Record]:
    given = {"action_type": "create", "resource_product": "members", "resource_type": "members"}
    return [action(**given | {"resource_request": body} | changes)]


def token(body: str, **changes: Any) -> list[Record]:
    given = {"action_type": "create", "resource_product": "tokens", "resource_type": "tokens"}
    return [action(**given | {"resource_request": body} | changes)]


def dns(kind: str, *, deletes: bool = True) -> list[Record]:
    given = {"resource_product": "dns_records", "resource_type": "dns_records", "resource_id": "r1"}
    made = action(AT_MS, action_type="create", resource_response=f'{{"type":"{kind}"}}', **given)
    gone = action(AT_MS + 1000, action_type="delete", resource_response='{"id":"r1"}', **given)
    return [made, gone] if deletes else [made]


def route(script: str) -> list[Record]:
    upload = action(AT_MS, resource_type="scripts", resource_product="workers", resource_id="shop")
    given = {"action_type": "create", "resource_type": "routes", "resource_product": "workers"}
    return [upload, action(AT_MS + 1, resource_request=f'{{"script":"{script}"}}', **given)]


def uses(*addresses: str, **changes: Any) -> list[Record]:
    return [
        action(AT_MS + number, actor_token_id="t1", actor_ip_address=address, **changes)
        for number, address in enumerate(addresses)
    ]


def altered(receipt: str, at_ms: int = AT_MS, **changes: Any) -> Record:
    return action(at_ms, receipt=f"{{{receipt}}}", **changes)


def failed(count: int, spread_ms: int = 30_000, **changes: Any) -> list[Record]:
    return [
        action(BEGIN_MS + number * spread_ms, action_result="failure", **changes) for number in range(count)
    ]


def deleted(windows: int, of_each: int, last: int) -> list[Record]:
    given = {"action_type": "delete", "resource_product": "queues", "resource_type": "queues"}
    usual = [
        action(BEGIN_MS - (window + 1) * 10 * MINUTE_MS + number, resource_id=f"{window}.{number}", **given)
        for window in range(windows)
        for number in range(of_each)
    ]
    return [
        *usual,
        *(action(BEGIN_MS + number, resource_id=f"now.{number}", **given) for number in range(last)),
    ]


RAISES: list[tuple[str, str, list[Record]]] = [
    ("super-administrator", "high", member('{"roles":[{"name":"Super Administrator - All Privileges"}]}')),
    ("super-administrator", "high", member('{"roles":["reader","owner"]}', action_type="update")),
    ("broad-token", "high", token('{"policies":[{"resources":{"account":"all"}}]}')),
    ("broad-token", "high", token('{"policies":[{"permission_groups":[{"name":"Account Admin"}]}]}')),
    (
        "two-factor-off",
        "high",
        [action(action_type="delete", resource_type="two_factor", resource_product="two_factor")],
    ),
    ("two-factor-off", "high", [action(resource_request='{"settings":{"enforce_twofactor":false}}')]),
    (
        "firewall-rule-deleted",
        "medium",
        [action(action_type="delete", resource_type="rules", resource_product="firewall")],
    ),
    ("dns-record-deleted", "medium", dns("MX")),
    ("dns-record-deleted", "medium", dns("A")),
    ("route-to-unknown-worker", "medium", route("intruder")),
    ("token-from-new-network", "medium", uses("203.0.113.9", "198.51.100.7")),
    ("token-from-new-network", "medium", uses("203.0.113.9", "198.51.100.7", action_type="view")),
    ("altered-requests", "medium", [altered('"altered":true,"unmatched":"invalid_path"')]),
    ("altered-requests", "medium", [altered('"unmatched":"method_override"', action_type="view")]),
    ("altered-requests", "medium", [altered('"altered":true', AT_MS + number) for number in range(3)]),
    ("altered-requests", "medium", [altered('"unmatched":"no_method"', raw_method="OTHER")]),
    ("forged-tokens", "medium", [altered('"identity":{"source":"headers","reason":"signature"}')]),
    (
        "forged-tokens",
        "medium",
        [altered('"identity":{"source":"none","reason":"several"}', action_type="view")],
    ),
    ("failures-by-one-actor", "medium", failed(5)),
    ("failures-by-one-actor", "medium", failed(9, action_type="view")),
    ("deletions-above-baseline", "low", deleted(0, 0, 20)),
    ("deletions-above-baseline", "low", deleted(140, 6, 25)),
]
QUIET: list[tuple[str, list[Record]]] = [
    ("another role", member('{"roles":[{"name":"Administrator Read Only"}]}')),
    ("a role that was not given", member('{"roles":["owner"]}', action_result="failure")),
    ("a narrow token", token('{"policies":[{"resources":{"zone":"own"},"permissions":["dns_read"]}]}')),
    ("a token that was not made", token('{"policies":[{"resources":{"a":"*"}}]}', action_result="failure")),
    (
        "two factors turned on",
        [action(resource_type="two_factor", resource_response='{"enabled":true}')],
    ),
    (
        "a firewall rule made",
        [action(action_type="create", resource_type="rules", resource_product="firewall")],
    ),
    ("a text record deleted", dns("TXT")),
    ("a mail record made", dns("MX", deletes=False)),
    ("a route to a worker of ours", route("shop")),
    ("a token in its network", uses("203.0.113.9", "203.0.113.77")),
    ("requests of no operation", [altered('"unmatched":"no_path"'), altered('"altered":false')]),
    ("tokens out of date", [altered('"identity":{"source":"headers","reason":"expired"}')]),
    ("a token", [altered('"identity":{"source":"token","issuer":"i","kind":"user"}')]),
    ("a method that a path lacks", [altered('"unmatched":"no_method"', raw_method="PUT")]),
    ("four failures", failed(4)),
    ("failures far between", failed(8, spread_ms=4 * MINUTE_MS)),
    ("failures of many", [one for n in range(9) for one in failed(1, actor_id=f"actor-{n}")]),
    ("routine reads", [action(action_type="view", resource_type="members") for _ in range(50)]),
    ("few deletions", deleted(0, 0, 19)),
    ("deletions as usual", deleted(140, 12, 40)),
]


@pytest.mark.parametrize(
    ("rule", "severity", "records"), RAISES, ids=[f"{rule}-{n}" for n, (rule, *_) in enumerate(RAISES)]
)
async def test_shipped_rules_raise(
    shipped: RuleSet, rule: str, severity: str, records: Sequence[Record]
) -> None:
    found = await raised(shipped, records)
    assert [(alert.rule, alert.severity) for alert in found] == [(rule, severity)]


@pytest.mark.parametrize("records", [records for _, records in QUIET], ids=[name for name, _ in QUIET])
async def test_shipped_rules_stay_quiet(shipped: RuleSet, records: Sequence[Record]) -> None:
    assert await raised(shipped, records) == []


def test_every_shipped_rule_has_a_case(shipped: RuleSet) -> None:
    assert {rule.name for rule in shipped.rules if not rule.drops} == {rule for rule, *_ in RAISES}


async def test_only_routine_reads_are_dropped(shipped: RuleSet) -> None:
    """A rule at the end that every record fits sees everything except reads."""
    text = text_of(PRODUCTS)
    last = (
        "  - {name: anything, title: Anything, severity: info, when: {actor.id: ana}, key: [action.type]}\n"
    )
    held = parse_rules((text + last).encode(), "rules.yaml")
    kinds = ("view", "create", "update", "delete")
    found = await raised(held, [action(action_type=kind, resource_type="queues") for kind in kinds])
    assert [alert.key for alert in found] == [f'{{"action.type":"{kind}"}}' for kind in kinds[1:]]
    assert [rule.name for rule in shipped.rules if rule.drops] == ["routine-reads"]
