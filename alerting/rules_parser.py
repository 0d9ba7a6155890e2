"""Parses a rules file: YAML, held to schemas/alert_rules.schema.json, compiled once. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from jsonschema import ValidationError

from alerting.conditions import Condition, UnfitCondition, compile_condition
from alerting.record_fields import FieldReader, field_reader
from alerting.rules import Baseline, ChannelConfig, Rule, RuleSet, SeenValueCheck, Window, digest
from alerting.yaml_source import YamlSource
from schemas.contracts import validator

SCHEMA = "alert_rules"
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DEFAULT_WINDOW_MS = 600_000
_DEFAULT_KEY = ("actor.id", "resource.id")
_WINDOW_MS_MAX = 7 * 86_400_000
LOOK_BACK_DAYS_MAX = 30
"""How far before a record its rule may count, baseline included."""
# Each record is counted against this many windows at most.
_HOPS_MAX = 120
_UNKNOWN_KEY = re.compile(r"'([^']*)'")
_Path = tuple[str | int, ...]


def parse_rules(text: bytes, name: str) -> RuleSet:
    """Return the rules of a file. Raises RulesRefused with `name`, the line and the reason."""
    source = YamlSource(text, name)
    _check_schema(source)
    channels = {
        channel: ChannelConfig(channel, **_with_files_beside(name, fields))
        for channel, fields in source.content.get("channels", {}).items()
    }
    rules = []
    for index, fields in enumerate(source.content["rules"]):
        try:
            rules.append(_rule(fields, tuple(channels)))
        except UnfitCondition as unfit:
            raise source.refusal(("rules", index, *unfit.path), unfit.reason) from None
    _check_names(rules, source)
    return RuleSet(tuple(rules), channels, hashlib.sha256(text).hexdigest()[:16])


def _with_files_beside(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a channel's fields, with relative paths taken from the folder of the rules file."""
    folder = PurePath(name).parent
    return {
        field: str(folder / value) if field.endswith("_file") else value for field, value in fields.items()
    }


def duration_ms(text: str) -> int:
    """Return `10m` as milliseconds; units s, m, h, d."""
    return int(text[:-1]) * _UNITS_MS[text[-1]]


def _check_schema(source: YamlSource) -> None:
    errors = list(validator(SCHEMA).iter_errors(source.content))
    if not errors:
        return
    # The deepest error is the most precise one.
    error = max(errors, key=lambda each: len(each.absolute_path))
    path: list[str | int] = list(error.absolute_path)
    where = ".".join(map(str, path)) or "the file"
    unknown = _UNKNOWN_KEY.search(error.message)
    if error.validator == "additionalProperties" and unknown:
        raise source.refusal([*path, unknown[1]], f"{unknown[1]} is not known in {where}")
    if error.schema is False or error.validator == "additionalProperties":
        raise source.refusal(path, f"{where} cannot be combined with the other keys")
    raise source.refusal(path, _reason(error, where))


def _reason(error: ValidationError, where: str) -> str:
    """Return why a value does not fit, in words; jsonschema's own message would quote the whole value."""
    stated: Any = error.validator_value
    match error.validator:
        case "required":
            return error.message.replace(" is a required property", " is missing") + f" in {where}"
        case "enum":
            return f"{where} is one of {', '.join(map(str, stated))}"
        case "pattern":
            return f"{where} does not match {stated}"
        case "type":
            return f"{where} must be of type {stated}"
        case "oneOf":
            return f"{where} has none of the allowed forms"
        case _:
            return f"{where} does not fit ({error.validator})"


def _rule(fields: Mapping[str, Any], channels: tuple[str, ...]) -> Rule:
    """Return a compiled rule. Raises UnfitCondition with the path below the rule."""
    _check_drop(fields)
    check = fields.get("seen_values")
    rule = Rule(
        name=fields["name"],
        title=fields.get("title", ""),
        severity=fields["severity"],
        when=compile_condition(fields["when"], ("when",)),
        key=_named_readers(fields.get("key", _DEFAULT_KEY), ("key",)),
        window=_window(fields.get("window"), ("window",)),
        threshold=fields.get("threshold", 1),
        baseline=Baseline(**fields["baseline"]) if "baseline" in fields else None,
        seen_values=None if check is None else _seen_values(check, ("seen_values",)),
        channels=tuple(fields.get("channels", channels)),
    )
    _check_rule(rule, channels)
    return rule


def _check_drop(fields: Mapping[str, Any]) -> None:
    if fields["severity"] != "drop":
        return
    for name in fields:
        if name not in {"name", "severity", "when"}:
            raise UnfitCondition((name,), "a rule of severity drop has a name and a condition, nothing else")


def _check_rule(rule: Rule, channels: tuple[str, ...]) -> None:
    for channel in rule.channels:
        if channel not in channels:
            raise UnfitCondition(("channels",), f"there is no channel {channel}")
    if rule.seen_values is not None and rule.counts:
        raise UnfitCondition(("seen_values",), "seen_values goes with no threshold and no baseline")
    if rule.window.hop_ms != rule.window.size_ms and not rule.counts:
        raise UnfitCondition(("window",), "hopping windows need a threshold above 1")
    if rule.baseline is not None:
        look_back_ms = (rule.baseline.windows + 1) * rule.window.size_ms
        if look_back_ms > LOOK_BACK_DAYS_MAX * _UNITS_MS["d"]:
            raise UnfitCondition(("baseline", "windows"), f"a rule looks back at most {LOOK_BACK_DAYS_MAX}d")


def _window(value: Any, path: _Path) -> Window:
    if value is None:
        return Window(_DEFAULT_WINDOW_MS, _DEFAULT_WINDOW_MS)
    fields = {"size": value} if isinstance(value, str) else value
    size_ms = duration_ms(fields["size"])
    hop_ms = duration_ms(fields.get("hop", fields["size"]))
    if size_ms > _WINDOW_MS_MAX:
        raise UnfitCondition(path, "a window is at most 7d long")
    if size_ms % hop_ms or size_ms // hop_ms > _HOPS_MAX:
        raise UnfitCondition(path, f"a window's size is a multiple of its hop, at most {_HOPS_MAX} times")
    return Window(size_ms, hop_ms)


def _seen_values(fields: Mapping[str, Any], path: _Path) -> SeenValueCheck:
    learn, network = fields.get("learn"), fields.get("network")
    learn_when: Condition | None = None
    learn_value: tuple[FieldReader, ...] = ()
    if learn is not None:
        learn_when = compile_condition(learn["when"], (*path, "learn", "when"))
        learn_value = _alternatives(learn["value"], (*path, "learn", "value"))
    return SeenValueCheck(
        raise_on=fields["raise"],
        key=_named_readers(fields.get("key", []), (*path, "key")),
        learn_when=learn_when,
        learn_value=learn_value,
        value=_alternatives(fields.get("value", []), (*path, "value")),
        known_values=tuple(digest(value) for value in fields.get("values", ())),
        network=None if network is None else (network.get("v4", 24), network.get("v6", 48)),
    )


def _named_readers(names: Sequence[str], path: _Path) -> tuple[tuple[str, FieldReader], ...]:
    return tuple((name, _reader(name, (*path, index))) for index, name in enumerate(names))


def _alternatives(names: str | Sequence[str], path: _Path) -> tuple[FieldReader, ...]:
    """Return readers of which the first one counts that finds a value."""
    if isinstance(names, str):
        return (_reader(names, path),)
    return tuple(_reader(name, path) for name in names)


def _reader(name: str, path: _Path) -> FieldReader:
    try:
        return field_reader(name)
    except KeyError:
        raise UnfitCondition(path, f"there is no field {name}") from None


def _check_names(rules: Sequence[Rule], source: YamlSource) -> None:
    seen: set[str] = set()
    for index, rule in enumerate(rules):
        if rule.name in seen:
            raise source.refusal(("rules", index, "name"), f"there are two rules named {rule.name}")
        seen.add(rule.name)
