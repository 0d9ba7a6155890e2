"""Compiled rules. Pure. `alerting.rules_parser` makes them from a file.

Their order counts: a record that a rule of severity `drop` fits is not seen by the rules below it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from alerting.conditions import Condition
from alerting.record_fields import FieldReader, RecordView
from schemas.addresses import parse_address

RaiseOn = Literal["new", "unknown", "known"]


@dataclass(frozen=True, slots=True)
class Window:
    """Windows of `size_ms` that begin at every multiple of `hop_ms` of Unix time; tumbling where the two are equal."""

    size_ms: int
    hop_ms: int

    def starts(self, at_ms: int) -> range:
        """Return the starts of the windows that hold a time, the earliest first."""
        last = at_ms - at_ms % self.hop_ms
        hops = (self.size_ms - 1 - at_ms % self.hop_ms) // self.hop_ms
        return range(last - hops * self.hop_ms, last + 1, self.hop_ms)


@dataclass(frozen=True, slots=True)
class Baseline:
    """A window raises only above `times` the mean of the `windows` windows before it."""

    times: float
    windows: int


@dataclass(frozen=True, slots=True, eq=False)
class SeenValueCheck:
    """Compares values of a record with those seen before for the same key; see `seenValues` in the schema of rules.

    `raise_on`: `new` raises for an unseen value of a key that has others, `unknown` for any unseen value, `known` where
    one of `known_values` was seen. `learn_when`: which records teach; None: those that the rule's condition fits.
    `network`: prefix lengths (IPv4, IPv6) to which addresses are reduced.
    """

    raise_on: RaiseOn
    key: tuple[tuple[str, FieldReader], ...]
    learn_when: Condition | None
    learn_value: tuple[FieldReader, ...]
    value: tuple[FieldReader, ...]
    known_values: tuple[bytes, ...]
    network: tuple[int, int] | None

    def sought(self, view: RecordView) -> Sequence[bytes]:
        """Return the digests of the values that decide whether the rule raises."""
        return self.known_values if self.raise_on == "known" else self._digests(self.value, view)

    def learned(self, view: RecordView, *, fits: bool) -> Sequence[bytes]:
        """Return the digests of the values to remember. `fits`: whether the rule's condition fits the record."""
        if self.learn_when is None:
            return self._digests(self.value, view) if fits else ()
        return self._digests(self.learn_value, view) if self.learn_when(view) else ()

    def repeat_key(self, rule: str, view: RecordView) -> Hashable:
        """Return what two records share if the second one changes nothing; None where any record may change something."""
        if self.learn_when is not None:
            return None
        key = [list(read(view)) for _, read in self.key]
        # A digest, because many of these are held in memory, and values may be long.
        return rule, digest([view.record.account_id, key, [list(read(view)) for read in self.value]])

    def _digests(self, readers: Sequence[FieldReader], view: RecordView) -> Sequence[bytes]:
        """Return the digests of the first field that has values."""
        values: Sequence[Any] = next((found for read in readers if (found := read(view))), ())
        if self.network is not None:
            networks = [_network(value, self.network) for value in values]
            values = [network for network in networks if network is not None]
        return [digest(value) for value in values]


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """One rule: `threshold` records of a key in a window raise one alert."""

    name: str
    title: str
    severity: str
    when: Condition
    key: tuple[tuple[str, FieldReader], ...]
    window: Window
    threshold: int
    baseline: Baseline | None
    seen_values: SeenValueCheck | None
    channels: tuple[str, ...]

    @property
    def drops(self) -> bool:
        """Whether records that fit are hidden from the rules below."""
        return self.severity == "drop"

    @property
    def counts(self) -> bool:
        """Whether records have to be counted, because one is not enough to raise."""
        return self.threshold > 1 or self.baseline is not None


@dataclass(frozen=True, slots=True)
class ChannelConfig:
    """Where alerts are sent, as the rules file configures it. `type`: `webhook`, `slack` or `stdout`."""

    name: str
    type: str
    url: str | None = None
    url_file: str | None = None
    secret_file: str | None = None


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The content of one rules file. `digest`: of its bytes."""

    rules: tuple[Rule, ...]
    channels: Mapping[str, ChannelConfig]
    digest: str


def digest(value: Any) -> bytes:
    """Return 16 bytes that stand for a JSON value."""
    return hashlib.blake2b(msgspec.json.encode(value), digest_size=16).digest()


def key_text(key: Sequence[tuple[str, Any]]) -> str:
    """Return a key as JSON text, its fields in the order of the rule."""
    return json.dumps(dict(key), ensure_ascii=True, separators=(",", ":"))


def _network(value: Any, prefix_bits: tuple[int, int]) -> str | None:
    address = parse_address(value) if isinstance(value, str) else None
    if address is None:
        return None
    bits = prefix_bits[0] if address.version == 4 else prefix_bits[1]
    return str(ipaddress.ip_network((address, bits), strict=False))
