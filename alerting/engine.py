"""What rules make of records. Pure: no clock, no I/O.

Evaluation has three steps, so that one store transaction serves many records:

1. `match_rules(rules, record)` finds the rules that a record concerns: `RuleMatch`.
2. `required_state(matches)` names the stored state that evaluating them needs; the store loads it as `State`.
3. `evaluate(matches, state)` returns what is to be stored: window entries, seen values and alerts.

Windows go by the records' own times (Unix ms). Everything that `evaluate` returns is idempotent by its own key, so
evaluating the same records again, in any order, raises no alert twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from alerting.record_fields import RecordView
from alerting.rules import Rule, RuleSet, SeenValueCheck, digest, key_text
from schemas.identity import derive_id
from schemas.record import Record

# A key stands in the alert and its payload; values come from traffic and may be long.
_KEY_CHARS_MAX = 512


class RuleKey(NamedTuple):
    """What state is stored under: a rule's name and the 16-byte digest of the account and the key's values."""

    rule: str
    key_digest: bytes


class SeenValueLookup(NamedTuple):
    """The part of a match that concerns seen values, all as 16-byte digests.

    `key`: whose seen values. `sought`: values that decide whether the rule raises. `learned`: values to remember.
    """

    key: RuleKey
    sought: Sequence[bytes]
    learned: Sequence[bytes]


class RuleMatch(NamedTuple):
    """One record that concerns a rule.

    `fits`: whether the record fulfils the rule's condition; otherwise the rule only learns values from it.
    `seen`: set for rules with `seen_values`. `repeat_key`: once this match is stored, another one with the same
    `repeat_key` changes nothing and can be skipped; None: never skip.
    """

    rule: Rule
    key: RuleKey
    key_text: str
    record: Record
    at_ms: int
    fits: bool
    seen: SeenValueLookup | None = None
    repeat_key: Hashable = None


class WindowEntry(NamedTuple):
    """One record, counted once in every window of a key that holds its time."""

    key: RuleKey
    record_id: UUID
    at_ms: int


class SeenValue(NamedTuple):
    """A value that was seen for a key."""

    key: RuleKey
    value_digest: bytes


@dataclass(frozen=True, slots=True)
class Alert:
    """What is raised: one alert for each rule, key and window. `records`: how many records it took."""

    id: UUID
    rule: str
    severity: str
    title: str
    account_id: str | None
    key: str
    key_digest: bytes
    window_start_ms: int
    window_ms: int
    records: int
    record: Record
    channels: tuple[str, ...]


class BucketRange(NamedTuple):
    """The window entries that are needed: times from `from_ms` to before `before_ms`, counted by `width_ms`."""

    from_ms: int
    before_ms: int
    width_ms: int


class StartRange(NamedTuple):
    """Windows that begin between two times, both included (Unix ms)."""

    first_ms: int
    last_ms: int


@dataclass(slots=True)
class RequiredState:
    """The stored state that evaluating some matches needs."""

    buckets: dict[RuleKey, BucketRange] = field(default_factory=dict)
    raised_windows: dict[RuleKey, StartRange] = field(default_factory=dict)
    """Has the same keys as `buckets`."""
    records: dict[RuleKey, set[UUID]] = field(default_factory=dict)
    """Records of which it must be known whether they are counted already."""
    seen_values: dict[RuleKey, set[bytes]] = field(default_factory=dict)


@dataclass(slots=True)
class State:
    """The stored state as far as it was required. What is absent here is not stored."""

    bucket_counts: dict[RuleKey, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    """Number of window entries by the start of their bucket (Unix ms)."""
    raised_windows: dict[RuleKey, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Starts of the windows that have an alert."""
    counted_records: set[tuple[RuleKey, UUID]] = field(default_factory=set)
    seen_values: set[tuple[RuleKey, bytes]] = field(default_factory=set)
    keys_with_seen_values: set[RuleKey] = field(default_factory=set)


@dataclass(slots=True)
class Evaluation:
    """What an evaluation adds to the stored state."""

    window_entries: list[WindowEntry] = field(default_factory=list)
    seen_values: list[SeenValue] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)


def match_rules(
    rules: RuleSet, record: Record, stored_repeats: Container[Hashable] = frozenset()
) -> list[RuleMatch]:
    """Return the matches of a record, in the order of the rules, up to the first `drop` rule that it fits.

    `stored_repeats`: `repeat_key`s of matches that are stored already; matches that equal them are left out.
    """
    view = RecordView(record)
    matches = []
    for rule in rules.rules:
        fits = rule.when(view)
        if rule.drops:
            if fits:
                break
            continue
        if rule.seen_values is not None:
            match = _match_seen_values(rule, rule.seen_values, view, stored_repeats, fits=fits)
            if match is not None:
                matches.append(match)
        elif fits:
            matches.append(RuleMatch(rule, *_key_of(rule, view), record, view.at_ms, fits=True))
    return matches


def _match_seen_values(
    rule: Rule, check: SeenValueCheck, view: RecordView, stored_repeats: Container[Hashable], *, fits: bool
) -> RuleMatch | None:
    repeat_key = check.repeat_key(rule.name, view) if fits else None
    if repeat_key is not None and repeat_key in stored_repeats:
        return None
    learned = check.learned(view, fits=fits)
    if not fits and not learned:
        return None
    values = [view.record.account_id, *(list(read(view)) for _, read in check.key)]
    sought = check.sought(view) if fits else ()
    seen = SeenValueLookup(RuleKey(rule.name, digest(values)), sought, learned)
    return RuleMatch(rule, *_key_of(rule, view), view.record, view.at_ms, fits, seen, repeat_key)


def _key_of(rule: Rule, view: RecordView) -> tuple[RuleKey, str]:
    text = key_text([(name, _shown(read(view))) for name, read in rule.key])
    # With the account, so that accounts are counted apart whatever the key of the rule.
    return RuleKey(rule.name, digest([view.record.account_id, text])), text


def _shown(values: Sequence[Any]) -> Any:
    bounded = [value[:_KEY_CHARS_MAX] if isinstance(value, str) else value for value in values]
    if len(bounded) > 1:
        return bounded
    return bounded[0] if bounded else None


def required_state(matches: Iterable[RuleMatch]) -> RequiredState:
    """Return the state that `evaluate` needs for these matches."""
    required = RequiredState()
    for match in matches:
        if match.seen is not None:
            values = required.seen_values.setdefault(match.seen.key, set())
            values.update(match.seen.sought, match.seen.learned)
        elif match.rule.counts:
            _require_windows(required, match)
    return required


def _require_windows(required: RequiredState, match: RuleMatch) -> None:
    """Widen the key's ranges by every window that holds the record, and by the windows of the rule's baseline."""
    window, baseline = match.rule.window, match.rule.baseline
    starts = window.starts(match.at_ms)
    from_ms = starts[0] - (baseline.windows * window.size_ms if baseline else 0)
    before_ms = starts[-1] + window.size_ms
    # Windows that overlap one with an alert raise none, so those up to one length away count as well.
    raised = StartRange(starts[0] - window.size_ms, starts[-1] + window.size_ms)
    earlier = required.buckets.get(match.key)
    if earlier is not None:
        from_ms, before_ms = min(from_ms, earlier.from_ms), max(before_ms, earlier.before_ms)
        known = required.raised_windows[match.key]
        raised = StartRange(min(raised.first_ms, known.first_ms), max(raised.last_ms, known.last_ms))
    required.buckets[match.key] = BucketRange(from_ms, before_ms, window.hop_ms)
    required.raised_windows[match.key] = raised
    required.records.setdefault(match.key, set()).add(match.record.id)


def evaluate(matches: Sequence[RuleMatch], state: State) -> Evaluation:
    """Return what the matches add to the stored state, alerts included.

    `state` is updated on the way, so that later matches see what earlier ones added.
    """
    result = Evaluation()
    for match in matches:
        if match.seen is not None:
            _evaluate_seen_values(match, match.seen, state, result)
        elif match.rule.counts:
            _evaluate_windows(match, state, result)
        else:
            _raise(match, _first_start(match), 1, state, result)
    return result


def _evaluate_seen_values(match: RuleMatch, seen: SeenValueLookup, state: State, result: Evaluation) -> None:
    key_was_empty = seen.key not in state.keys_with_seen_values
    # Before learning: a record must not make its own value known.
    known_before = [(seen.key, value) in state.seen_values for value in seen.sought]
    _learn(seen, state, result)
    if not match.fits or not seen.sought:
        return
    raise_on = match.rule.seen_values.raise_on if match.rule.seen_values else None
    if raise_on == "known":
        # After learning, because a response may say what was deleted.
        raises = any((seen.key, value) in state.seen_values for value in seen.sought)
    elif raise_on == "unknown":
        raises = not all(known_before)
    else:
        raises = not all(known_before) and not key_was_empty
    if raises:
        _raise(match, _first_start(match), 1, state, result)


def _learn(seen: SeenValueLookup, state: State, result: Evaluation) -> None:
    for value in seen.learned:
        if (seen.key, value) not in state.seen_values:
            state.seen_values.add((seen.key, value))
            state.keys_with_seen_values.add(seen.key)
            result.seen_values.append(SeenValue(seen.key, value))


def _evaluate_windows(match: RuleMatch, state: State, result: Evaluation) -> None:
    rule, key, window = match.rule, match.key, match.rule.window
    # The same event read again: the counts hold it already.
    if (key, match.record.id) in state.counted_records:
        return
    raised = state.raised_windows[key]
    is_covered = any(start <= match.at_ms < start + window.size_ms for start in raised)
    if is_covered and rule.baseline is None:
        return  # no window that holds the record can raise any more, and no baseline needs its count
    _count(match, state, result)
    counts = state.bucket_counts[key]
    # Latest window first: it holds most of what is still to come, so an ongoing incident raises one alert per window.
    for start in reversed(window.starts(match.at_ms)):
        records = _records_between(counts, start, start + window.size_ms, window.hop_ms)
        overlaps = any(abs(start - other) < window.size_ms for other in raised)
        if records >= _records_to_raise(rule, counts, start) and not overlaps:
            _raise(match, start, records, state, result)
            return


def _count(match: RuleMatch, state: State, result: Evaluation) -> None:
    state.counted_records.add((match.key, match.record.id))
    result.window_entries.append(WindowEntry(match.key, match.record.id, match.at_ms))
    counts = state.bucket_counts[match.key]
    bucket = match.at_ms - match.at_ms % match.rule.window.hop_ms
    counts[bucket] = counts.get(bucket, 0) + 1


def _records_to_raise(rule: Rule, counts: Mapping[int, int], start_ms: int) -> float:
    """Return the threshold, or the baseline's multiple of the mean of the windows before if that is more."""
    if rule.baseline is None:
        return rule.threshold
    windows, size_ms = rule.baseline.windows, rule.window.size_ms
    before = _records_between(counts, start_ms - windows * size_ms, start_ms, rule.window.hop_ms)
    return max(rule.threshold, rule.baseline.times * before / windows)


def _records_between(counts: Mapping[int, int], from_ms: int, before_ms: int, width_ms: int) -> int:
    # Whichever is shorter: the buckets that exist, or those of the range.
    if len(counts) < (before_ms - from_ms) // width_ms:
        return sum(count for start, count in counts.items() if from_ms <= start < before_ms)
    return sum(counts.get(start, 0) for start in range(from_ms, before_ms, width_ms))


def _first_start(match: RuleMatch) -> int:
    return match.rule.window.starts(match.at_ms)[0]


def _raise(match: RuleMatch, start_ms: int, records: int, state: State, result: Evaluation) -> None:
    rule, raised = match.rule, state.raised_windows[match.key]
    # One alert for each window, however many of its records come after.
    if start_ms in raised:
        return
    raised.append(start_ms)
    result.alerts.append(
        Alert(
            id=alert_id(match.key, start_ms),
            rule=rule.name,
            severity=rule.severity,
            title=rule.title,
            account_id=match.record.account_id,
            key=match.key_text,
            key_digest=match.key.key_digest,
            window_start_ms=start_ms,
            window_ms=rule.window.size_ms,
            records=records,
            record=match.record,
            channels=rule.channels,
        )
    )


def alert_id(key: RuleKey, window_start_ms: int) -> UUID:
    """Return the same UUIDv7 for the same rule, key and window, whoever raises the alert.

    Its time is the window's start.
    """
    # A UUIDv7 holds no time before 1970.
    return UUID(derive_id(b"auditap alert", max(window_start_ms, 0), key.rule, 0, key.key_digest.hex()))
