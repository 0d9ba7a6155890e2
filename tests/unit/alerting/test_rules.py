"""A rules file is loaded as a whole, or refused with line and reason."""

from __future__ import annotations

import textwrap

import pytest

from alerting.record_fields import RecordView
from alerting.rules_parser import parse_rules
from alerting.yaml_source import BYTES_MAX, RulesRefused
from tests.alert_cases import action, rules


def text(body: str) -> bytes:
    return textwrap.dedent(body).lstrip("\n").encode()


GOOD = """
channels:
  ops: {type: webhook, url: "https://alerts.example.com/in", secret_file: ops.key}
rules:
  - name: failures
    title: Failures
    severity: medium
    when: {action.result: failure}
    key: [actor.id]
    threshold: 5
    window: {size: 10m, hop: 1m}
"""


def test_a_valid_file_is_loaded() -> None:
    held = parse_rules(text(GOOD), "rules.yaml")
    [rule] = held.rules
    assert (rule.threshold, rule.window.size_ms, rule.window.hop_ms) == (5, 600_000, 60_000)
    assert rule.channels == ("ops",)  # default: all channels of the file


def test_files_of_channels_are_relative_to_the_rules_file() -> None:
    [(_, channel)] = parse_rules(text(GOOD), "/etc/auditap/rules.yaml").channels.items()
    assert (channel.secret_file, channel.url) == ("/etc/auditap/ops.key", "https://alerts.example.com/in")
    absolute = text(GOOD.replace("ops.key", "/run/secrets/ops.key"))
    assert parse_rules(absolute, "conf/rules.yaml").channels["ops"].secret_file == "/run/secrets/ops.key"


@pytest.mark.parametrize(
    ("change", "line", "reason"),
    [
        (("severity: medium", "severity: loud"), 6, "high, medium, low, info, drop"),
        (("action.result: failure", "action.outcome: failure"), 7, "no field action.outcome"),
        (("threshold: 5", "treshold: 5"), 9, "treshold is not known"),
        (("threshold: 5", "threshold: 0"), 9, "threshold"),
        (("title: Failures", "channels: []"), 4, "'title' is missing"),
        (("hop: 1m", "hop: 7m"), 10, "multiple of its hop"),
        (("hop: 1m", "hop: 1s"), 10, "multiple of its hop"),
        (("size: 10m", "size: ten"), 10, "window"),
        (("size: 10m, hop: 1m", "size: 10d"), 10, "at most 7d"),
        (("threshold: 5\n", "channels: [chat]\n"), 9, "no channel chat"),
        (("threshold: 5\n", "\n"), 10, "threshold above 1"),
        (("key: [actor.id]", "key: [actor.ident]"), 8, "no field actor.ident"),
        (("secret_file: ops.key", "colour: red"), 2, ""),
        (("https://alerts.example.com/in", "ftp://example.com"), 2, "url"),
        (("name: failures\n", "name: failures\n    name: other\n"), 5, "stands here twice"),
        (("rules:", "rules: ["), 4, "not YAML"),
        (("key: [actor.id]", "seen_values: {raise: new, value: actor.id}"), 8, "no threshold"),
        (("key: [actor.id]", "seen_values: {raise: known, value: actor.id}"), 8, ""),
    ],
)
def test_an_invalid_file_is_refused_with_line_and_reason(
    change: tuple[str, str], line: int, reason: str
) -> None:
    with pytest.raises(RulesRefused) as refused:
        parse_rules(text(GOOD.replace(*change)), "rules.yaml")
    assert refused.value.line == line
    assert str(refused.value).startswith(f"rules.yaml, line {line}: ")
    assert reason in str(refused.value)
    assert str(refused.value).count("\n") == 0


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"\xff", b"rules: 4", b"rules: [4]", b"a: &a [*a]", b"- &x {y: *x}"]
)
def test_a_file_without_rules_is_refused(body: bytes) -> None:
    with pytest.raises(RulesRefused):
        parse_rules(body, "rules.yaml")


def test_duplicate_rule_names_are_refused() -> None:
    twice = text(GOOD) + text(GOOD).split(b"rules:\n")[1]
    with pytest.raises(RulesRefused, match=r"line 11: there are two rules named failures"):
        parse_rules(twice, "rules.yaml")


def test_a_drop_rule_has_a_condition_only() -> None:
    with pytest.raises(RulesRefused, match="line 4"):
        parse_rules(
            b"rules:\n  - name: a\n    severity: drop\n    title: x\n    when: {action.type: view}\n", "r"
        )


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
DEEP = (
    "rules: [{name: a, title: A, severity: low, when: " + "{not: " * 60 + "{raw.method: GET}" + "}" * 61 + "]"
)
MANY = "rules:\n" + "".join(
    f"  - {{name: r{n}, title: R, severity: low, when: {{raw.method: GET}}}}\n" for n in range(501)
)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (BOMB, "holds more than 200000 values"),
        (DEEP, "nested more than 40 times"),
        ("rules: &a [*a]", "nested more than 40 times"),
        (MANY, "rules does not fit"),
        (GOOD + "#" * BYTES_MAX, "larger than"),
    ],
)
def test_a_file_beyond_its_bounds_is_refused(body: str, reason: str) -> None:
    with pytest.raises(RulesRefused, match=reason):
        parse_rules(body.encode(), "rules.yaml")


def test_a_condition_has_no_regular_expressions() -> None:
    with pytest.raises(RulesRefused):
        parse_rules(
            text(GOOD.replace("{action.result: failure}", '{raw.uri: {regex: "(a+)+$"}}')), "rules.yaml"
        )


def test_repeat_keys_are_small() -> None:
    """A repeat key of each known token is held in memory, and callers choose the length of their names."""
    check = {"raise": "new", "value": "actor.ip_address", "key": ["actor.token_id"]}
    [rule] = rules({"when": {"actor.token_id": {"absent": False}}, "seen_values": check}).rules
    assert rule.seen_values is not None
    long, other = (
        rule.seen_values.repeat_key(
            "rule", RecordView(action(actor_token_id=letter * 1_000_000, actor_ip_address="192.0.2.1"))
        )
        for letter in "ab"
    )
    assert long != other
    assert len(repr(long)) < 200
